"""The PTX that Triton makes of the attention kernels, run in the PTX interpreter against fp64: bf16 included."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.device.test_attention_forward import operands
from tests.device.triton_interpreter import interpreted
from tests.tolerance import Expectation

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.attention.triton_kernels import host, tables  # noqa: E402
from tests.device.triton_compile import in_ptx  # noqa: E402

TILE = tables.Tile(height=16, keys=32, chunk=64, warps=1, stages=2)


def check(inputs: Inputs, arch: str, tile: tables.Tile = TILE, backward: bool = True, processors: int = 1) -> None:
    with in_ptx(host, arch, tile), interpreted(host, processors=processors) as device:
        found = plain.run(inputs, "triton", plain.cotangents(inputs) if backward else None)
    assert device.launches == 1 + backward
    Expectation(inputs, rounded=inputs.dtype != torch.float32).check_results(found)


def causal(dtype: torch.dtype, **options: object) -> Inputs:
    mask = mmk.Mask.causal(align="bottom_right")
    return Inputs("attention", *operands(20, [50], dtype, heads=1, dim=32), mask, options=options)


def test_bfloat16_forward():
    check(causal(torch.bfloat16), "sm_80", backward=False)
