"""The PTX that Triton makes of the contrastive_loss kernels, run in the PTX interpreter against fp64: bf16 included."""

from __future__ import annotations

import pytest
import torch

from tests.contrastive.naive import Case
from tests.contrastive.rule import Expectation
from tests.device.triton_contrastive import interpreted

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.contrastive.triton_kernels import host, tables
from tests.device.triton_compile import in_ptx

TILE = tables.Tile(rows=16, columns=16, depth=16, warps=1, stages=2)
SLOW_DTYPES = [
    pytest.param(torch.bfloat16, marks=pytest.mark.slow),
    pytest.param(torch.float32, marks=pytest.mark.nightly),
]


def check(case, dtype, tile=TILE):
    """In two bands."""
    with in_ptx(host, tables=tables, arch="sm_80", tile=tile), interpreted(host, band_pairs=1) as asked:
        Expectation(case, case.operands(dtype)).check("triton")
    assert asked


def test_bfloat16_sigmoid():
    check(Case(17, 12, 24, "sigmoid", "index", 0.1), torch.bfloat16)


@pytest.mark.parametrize("dtype", SLOW_DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_form(kind, dtype):
    check(Case(20, 20, 24, kind), dtype)
    check(Case(20, 25, 17, kind, "index", 0.1, "sum"), dtype)
    check(Case(25, 20, 24, kind, "several", 0.1, "sum"), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_sums_over_warps(kind):
    """Rows and columns whose numbers lie in several warps."""
    tile = tables.Tile(rows=64, columns=32, depth=16, warps=4, stages=3)
    check(Case(70, 40, 40, kind, "several", 0.1), torch.bfloat16, tile)
