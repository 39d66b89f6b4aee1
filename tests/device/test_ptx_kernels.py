"""Whole kernels as nvcc compiles them, run by the PTX interpreter in random orders of warps, against fp64.

The emulator's results stand beside: it adds the same products in another order, or, where all arithmetic is correctly
rounded fp32, the same bits.
"""

from __future__ import annotations

import re

import pytest
import torch

from tests.device.compile import ROOT, nvcc, ptx_of
from tests.device.interpreted import Interpreted, source_of
from tests.device.kernel_cases import CASES
from tests.tolerance import same_bits

pytestmark = pytest.mark.skipif(nvcc() is None, reason="no nvcc on the PATH to compile CUDA with")
QUICK = ("plain", "backward", "fusion", "softmax")


def apart(found: dict[str, torch.Tensor], name: str) -> int:
    """How far the emulator may be, in eps of the largest number.

    The fp32 lse of a 16-bit call sums weights that are rounded to 16 bits, one way or the other.
    """
    if found[name].dtype != torch.float32:
        return 1
    return 4 if all(tensor.dtype == torch.float32 for tensor in found.values()) else 128


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES])
def test_case(emulator, name):
    case, device = CASES[name], Interpreted(emulator)
    found = case.run(device, 0)
    launched = [f"{entry}<{kernel}>" for entry, kernel in device.launched]
    missing = [each for each in case.kernels if not any(each in one for one in launched)]
    assert not missing, f"never launched: {missing}"
    again, emulated = case.run(device, 1), case.run(emulator, 0)
    for key, tensor in found.items():
        same_bits(key, again[key], tensor)
        if case.exact:
            same_bits(key, tensor, emulated[key])
        difference, largest = (tensor.double() - emulated[key].double()).abs().max(), tensor.double().abs().max()
        assert difference <= apart(found, key) * torch.finfo(tensor.dtype).eps * largest, key


@pytest.mark.slow
def test_another_architecture_has_the_same_bits(emulator):
    case = CASES["plain"]
    older, newer = (case.run(Interpreted(emulator, arch), 2) for arch in (80, 90))
    for key, tensor in older.items():
        same_bits(key, newer[key], tensor)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fusion, fp32", "plain"])
def test_no_product_and_sum_are_left_to_be_fused(emulator, name):
    """Without .rn the assembler may make one instruction of two: the build's -fmad=false has it written everywhere."""
    device = Interpreted(emulator)
    CASES[name].run(device, 0)
    source, loose = source_of(frozenset(device.launched)), re.compile(r"\b(?:mul|add|sub)\.f32\b")
    assert not loose.search(ptx_of(source, 80)) and loose.search(ptx_of(source, 80, ("-fmad=true",)))


def test_every_kernel_has_a_case():
    """Types of csrc/cuda/kernels that threads are launched for: they or their base say how many."""
    kernels = set()
    for header in sorted((ROOT / "csrc" / "cuda" / "kernels").glob("*.h")):
        types = re.split(r"^struct ", header.read_text(), flags=re.M)[1:]
        kernels |= {text.split()[0] for text in types if re.search(r"^  MMK_DEVICE void run\(\)", text, re.M)}
    told = " ".join(word for case in CASES.values() for word in case.kernels)
    assert len(kernels) >= 20 and not {name for name in kernels if not re.search(rf"\b{name}\b", told)}
