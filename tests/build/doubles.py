"""The host side of the CUDA ops without a GPU: csrc/ops/cuda as it is, above a device made of CPU kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from mmkernels import backend
from tools import machine, native, ninja_rules

ON_GPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


@contextmanager
def loaded(op: str, double: str, names: tuple[str, ...]) -> Iterator[Any]:
    """csrc/ops/cuda/<op>.cpp with tests/build/<double>.cpp; CPU tensors are sent to the kernels registered for GPUs."""
    torch_folder = machine.torch_folder()
    build = ninja_rules.Build(
        folder=native.ROOT / "build" / f"tests-cuda-{op}",
        output=native.ROOT / "build" / f"tests-cuda-{op}" / "double.so",
        link=["-shared", "-Wl,-Bsymbolic", *_cpu_objects(), f"-L{torch_folder / 'lib'}", "-ltorch_cpu"],
    )
    flags = [*native.FLAGS, "-O1", "-DUSE_CUDA", '-DMMK_CUDA_ARCHITECTURES="8.0"', f"-I{native.ROOT / 'csrc'}"]
    for source in (f"csrc/ops/cuda/{op}.cpp", f"tests/build/{double}.cpp", "tests/build/stream_double.cpp"):
        build.add(native.ROOT / source, [*flags, f"-isystem{torch_folder / 'include'}"])
    torch.ops.load_library(str(build.run()))
    entries = torch.library.Library("mmkernels_cuda", "IMPL")
    for name in names:
        entry = getattr(torch.ops.mmkernels_cuda, name).default
        entries.impl(name, lambda *args, entry=entry: entry.redispatch(ON_GPU, *args), "CPU")
    yield torch.ops.mmkernels_cuda
    entries._destroy()


@contextmanager
def chosen(monkeypatch: pytest.MonkeyPatch, module: Any) -> Iterator[str]:
    """The cuda backend of an op takes CPU tensors meanwhile; its name."""
    monkeypatch.setattr(module, "why_not_native_cuda", lambda problem, other: [])
    monkeypatch.setattr(module, "unverified", lambda problem: [])
    backend.select.cache_clear()
    yield "cuda"
    backend.select.cache_clear()


def _cpu_objects() -> list[str]:
    """Object files of csrc/cpu, as the present sources name them; an earlier build may have left others beside them."""
    build, kernels = native.library(), native.ROOT / "csrc" / "cpu"
    objects = [build.folder / name for name, source, _ in build.compiles if source.is_relative_to(kernels)]
    if not all(path.exists() for path in objects):
        pytest.skip("the objects of the build are not there: the library was built elsewhere")
    return [str(path) for path in objects]
