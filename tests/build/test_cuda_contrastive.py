"""The host side of the "cuda" backend of contrastive_loss without a GPU, above contrastive_double.cpp."""

from __future__ import annotations

import pytest
import torch

from mmkernels import _native, _native_cuda
from mmkernels.ops.contrastive import cuda
from tests.build import doubles
from tests.build.doubles import ON_GPU
from tests.contrastive.naive import KINDS, POSITIVES, Case
from tests.contrastive.rule import Expectation

pytestmark = [
    pytest.mark.skipif(not _native.loaded, reason=f"no native library: {_native.why_not_loaded}"),
    pytest.mark.skipif(_native_cuda.why_not_loaded() is None, reason="the real CUDA library is loaded"),
]
NAMES = ("contrastive_forward", "contrastive_backward", "contrastive_sigmoid")


@pytest.fixture(scope="module")
def double():
    with doubles.loaded("contrastive", "contrastive_double", NAMES) as ops:
        yield ops


@pytest.fixture
def backend_name(double, monkeypatch):
    with doubles.chosen(monkeypatch, cuda) as name:
        yield name


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
