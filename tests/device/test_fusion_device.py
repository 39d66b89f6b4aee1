"""The CUDA concat_fusion kernels, run by the emulator, forward and backward, against fp64."""

from __future__ import annotations

import pytest
import torch

from tests.backends import dtypes
from tests.device.fusion import emulated
from tests.fusion.naive import ACTIVATIONS, CASES, Case
from tests.fusion.rule import Expectation
from tests.tolerance import same_bits

WIDE = {"processors": 1}


def check(emulator, case, dtype, **options):
    """Every result, held to the rule; normalised features and dz are rounded where they are 16-bit operands."""
    expected = Expectation(case, case.operands(dtype), rounded=dtype != torch.float32)
    with emulated(emulator, **options) as device:
        found = expected.check("cuda")
    assert [direction for direction, _ in device.launches] == ["forward", "backward"]
    return found


@dtypes()
@pytest.mark.parametrize("name", CASES)
def test_form(emulator, name, dtype):
    """Every branch of the op, small."""
    check(emulator, CASES[name], dtype)
