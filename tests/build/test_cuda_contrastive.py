"""The host side of the "cuda" backend of contrastive_loss without a GPU, above contrastive_double.cpp."""

from __future__ import annotations

import pytest
import torch

from mmkernels import _native, _native_cuda, backend
from mmkernels.ops.contrastive import cuda
from tests.build.objects import cpu_objects
from tests.contrastive.naive import KINDS, POSITIVES, Case
from tests.contrastive.rule import Expectation
from tools import machine, native, ninja_rules

pytestmark = [
    pytest.mark.skipif(not _native.loaded, reason=f"no native library: {_native.why_not_loaded}"),
    pytest.mark.skipif(_native_cuda.why_not_loaded() is None, reason="the real CUDA library is loaded"),
]
NAMES = ("contrastive_forward", "contrastive_backward", "contrastive_sigmoid")
ON_GPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


@pytest.fixture(scope="module")
def double():
    """The ops with their double, and CPU tensors sent to the kernels registered for GPUs."""
    objects = cpu_objects()
    torch_folder = machine.torch_folder()
    flags = [*native.FLAGS, "-O1", "-DUSE_CUDA", f"-I{native.ROOT / 'csrc'}"]
    folder = native.ROOT / "build" / "tests-cuda-contrastive"
    link = ["-shared", "-Wl,-Bsymbolic", *objects, f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    build = ninja_rules.Build(folder=folder, output=folder / "double.so", link=link)
    doubles = ("tests/build/contrastive_double.cpp", "tests/build/stream_double.cpp")
    for source in ("csrc/ops/cuda/contrastive.cpp", *doubles):
        build.add(native.ROOT / source, [*flags, f"-isystem{torch_folder / 'include'}"])
    torch.ops.load_library(str(build.run()))
    entries = torch.library.Library("mmkernels_cuda", "IMPL")
    for name in NAMES:
        entry = getattr(torch.ops.mmkernels_cuda, name).default
        entries.impl(name, lambda *args, entry=entry: entry.redispatch(ON_GPU, *args), "CPU")
    yield torch.ops.mmkernels_cuda
    entries._destroy()


@pytest.fixture
def backend_name(double, monkeypatch):
    """The cuda backend takes CPU tensors meanwhile."""
    monkeypatch.setattr(cuda, "why_not_native_cuda", lambda problem, other: [])
    monkeypatch.setattr(cuda, "unverified", lambda problem: [])
    backend.select.cache_clear()
    yield "cuda"
    backend.select.cache_clear()


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_calls(backend_name: str, kind: str, positives: str) -> None:
    """Everything arrives at the kernels as it was meant."""
    for dtype in (torch.float32, torch.bfloat16):
        for smoothing, reduction in ((0.0, "none"), (0.1, "mean")):
            case = Case(33, 33, 17, kind, positives, smoothing, reduction)
            Expectation(case, case.operands(dtype)).check(backend_name)
            case = Case(33, 33, 17, kind, positives, smoothing, reduction, bias=None)
            Expectation(case, case.operands(dtype)).check(backend_name)


def test_index_values_are_not_read(double) -> None:
    """An index that is no column is no positive."""
    image, text = torch.randn(2, 5, 8)
    targets = torch.tensor([0, 1, 99, -3, 4])
    row, _ = cuda.statistics(image, text, torch.tensor(2.0), targets, False)
    torch.testing.assert_close(row.hit[2:4], torch.zeros(2), rtol=0, atol=0)


def test_shapes_are_checked(double) -> None:
    image, text = torch.randn(2, 5, 8)
    with pytest.raises(ValueError, match="image has 8 features and text 7"):
        cuda.statistics(image, text[:, :7], torch.tensor(2.0), None, False)
    with pytest.raises(ValueError, match="targets must be a bool"):
        cuda.statistics(image, text, torch.tensor(2.0), torch.ones(5, 4, dtype=torch.bool), False)
    with pytest.raises(ValueError, match="scale must be a contiguous float32 tensor of 1 elements, got 2"):
        cuda.statistics(image, text, torch.ones(2), None, False)


def test_tensors_elsewhere(double) -> None:
    image, text = torch.randn(2, 5, 8)
    stats, terms = torch.empty(2, 5), torch.empty(1, 5)
    scale = torch.ones(1, device="meta")
    with pytest.raises(RuntimeError, match="every tensor must be on image's device"):
        double.contrastive_forward.default.redispatch(
            ON_GPU, image, text, scale, None, False, stats, terms, stats.clone(), terms.clone()
        )
