"""The CUDA attention forward kernels, run by the emulator, against the fp64 reference."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.device.attention import emulated
from tests.tolerance import Expectation, same_bits

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def operands(q_len, k_lens, dtype, *, batch=1, heads=2, heads_k=None, dim=64, dim_v=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    heads_k, dim_v = heads_k or heads, dim_v or dim

    def operand(h, length, d):
        return torch.randn(batch, h, length, d, generator=random).to(dtype)

    return (
        [operand(heads, q_len, dim)],
        [operand(heads_k, length, dim) for length in k_lens],
        [operand(heads_k, length, dim_v) for length in k_lens],
    )


def check(emulator, inputs, **options):
    with emulated(emulator, **options) as device:
        found = plain.run(inputs, "cuda", None)
    Expectation(inputs, rounded=inputs.dtype != torch.float32).check_results(found)
    return found, device.told


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64])
def test_ragged(emulator, dtype, dim):
    inputs = Inputs("attention", *operands(77, [130], dtype, dim=dim))
    check(emulator, inputs)
