"""The PTX that Triton makes of the concat_fusion kernels, run in the PTX interpreter against fp64: bf16 included."""

from __future__ import annotations

import pytest
import torch

from tests.device.triton_fusion import check_activation, interpreted
from tests.fusion.naive import ACTIVATIONS, Case
from tests.fusion.rule import Expectation

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.fusion.triton_kernels import host, host_backward, host_forward, launch, tables
from tests.device.triton_compile import in_ptx

TILE = tables.Tile(height=16, width=32, depth=32, warps=1, stages=2)
CASES = {
    "plain": Case(((2, 9, 40), (2, 1, 7), (2, 9, 16)), 18, activation="silu"),
    "normalised": Case(((2, 9, 40), (2, 1, 7)), 18, norm="layer", activation="gelu", gate=(18,), residual=(2, 9, 18)),
    "tangents": Case(((9, 32),), 16, norm="rms", activation="tanh", gate=(9, 1)),
}


def as_ptx():
    return in_ptx(host_forward, host_backward, launch, tables=tables, arch="sm_80", tile=TILE)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param("plain", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("normalised", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("tangents", torch.bfloat16, marks=pytest.mark.nightly),
        pytest.param("normalised", torch.float32, marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_case(name, dtype):
    case = CASES[name]
    expected = Expectation(case, case.operands(dtype), rounded=dtype != torch.float32)
    with as_ptx(), interpreted(host) as device:
        expected.check("triton")
    assert device.calls == ["forward", "backward"]


@pytest.mark.slow
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name])
def test_activation_far_and_near(activation):
    """With the hardware's approximate exponentials."""
    with as_ptx(), interpreted(host):
        check_activation(activation)
