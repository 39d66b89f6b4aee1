"""The PTX that Triton makes of the attention kernels, run in the PTX interpreter against fp64: bf16 included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.device.test_attention_forward import operands
from tests.device.triton_interpreter import interpreted
from tests.tolerance import Expectation, same_bits

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.attention.triton_kernels import host, tables
from tests.device.triton_compile import in_ptx

SLOW_DTYPES = [
    pytest.param(torch.bfloat16, marks=pytest.mark.slow),
    pytest.param(torch.float32, marks=pytest.mark.nightly),
]
TILE = tables.Tile(height=16, keys=32, chunk=64, warps=1, stages=2)


def check(inputs: Inputs, backward: bool = True, processors: int = 1) -> None:
    with in_ptx(host, tables=tables, arch="sm_80", tile=TILE), interpreted(host, processors=processors) as device:
        found = plain.run(inputs, "triton", plain.cotangents(inputs) if backward else None)
    assert device.launches == 1 + backward
    Expectation(inputs, rounded=inputs.dtype != torch.float32).check_results(found)


def causal(dtype: torch.dtype, dim: int = 32) -> Inputs:
    mask = mmk.Mask.causal(align="bottom_right")
    return Inputs("attention", *operands(20, [50], dtype, heads=1, dim=dim), mask, options={})


def test_bfloat16_forward():
    check(causal(torch.bfloat16), backward=False)


@pytest.mark.parametrize("dtype", SLOW_DTYPES, ids=str)
def test_plain(dtype):
    check(causal(dtype))


@pytest.mark.parametrize("dtype", SLOW_DTYPES, ids=str)
def test_general(dtype):
    """Segments whose dropout counters are not aligned, a bias with a gradient, grouped heads, a narrow value."""
    inputs = Inputs("attention", *operands(20, [33, 20], dtype, heads=2, heads_k=1, dim=24, dim_v=16))
    inputs = replace(inputs, mask=mmk.Mask.window(30, 10), options={"softcap": 2.0, "dropout_p": 0.2, "seed": 7})
    check(replace(inputs, bias=torch.randn(1, 2, 20, 53, generator=torch.Generator().manual_seed(1))))


@pytest.mark.slow
def test_widest_heads():
    """256 features: keys are read again for each tile of rows, dk and dv have a launch each."""
    check(causal(torch.bfloat16, 256))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relative", "decomposed"])
def test_factored_bias(kind):
    """The gathers of the bias pass."""
    random = torch.Generator().manual_seed(1)
    parts = (torch.randn(1, 1, 20, 5, generator=random), torch.randn(1, 1, 20, 10, generator=random))
    bias = mmk.RelativeBias(torch.randn(1, 69, generator=random)) if kind == "relative" else mmk.DecomposedBias(*parts)
    check(replace(causal(torch.bfloat16), bias=bias))


@pytest.mark.slow
def test_split_keys():
    """Few queries, whose chunks of 64 keys have programs of their own, merged by the second kernel; and unsplit."""
    inputs = Inputs("attention", *operands(5, [150], torch.bfloat16, heads=2, heads_k=1, dim=32))
    for processors in (0, 64):
        check(inputs, backward=False, processors=processors)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_few_rows_have_the_bits_of_many(arch):
    """The table's two tiles for plain calls: their layouts must sum a row in the same order."""
    inputs = Inputs("attention", *operands(20, [75], torch.bfloat16, heads=1, dim=64))
    found = []
    for size in ("few", "many"):
        tile = tables.tile(arch, "forward", torch.bfloat16, 64, size)
        with in_ptx(host, tables=tables, arch=arch, tile=tile), interpreted(host):
            found.append(plain.run(inputs, "triton", None))
    assert tables.tile(arch, "forward", torch.bfloat16, 64, "few") != tile
    for name, tensor in found[0].items():
        same_bits(name, tensor, found[1][name])


@pytest.mark.slow
def test_packed_sequences():
    query, key, value = (
        tensors[0][0].transpose(0, 1).contiguous() for tensors in operands(40, [60], torch.bfloat16, heads=1, dim=32)
    )
    cuts = (torch.tensor(ends, dtype=torch.int32) for ends in ([0, 17, 17, 40], [0, 9, 30, 60]))
    check(Inputs("varlen", [query], [key], [value], **dict(zip(("cu_seqlens_q", "cu_seqlens_k"), cuts))))
