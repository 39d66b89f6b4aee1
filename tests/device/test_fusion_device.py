"""The CUDA concat_fusion kernels, run by the emulator, forward and backward, against fp64."""

from __future__ import annotations

import pytest
import torch

from tests.backends import dtypes
from tests.device.fusion import emulated
from tests.fusion.naive import ACTIVATIONS, CASES, Case, fused
from tests.fusion.rule import Expectation
from tests.layouts import LAYOUTS
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


SHAPES = {
    "two tiles": Case(((70, 65),), 66, activation="gelu"),
    "many steps": Case(((3, 200), (3, 64), (3, 1)), 5, gate=(), residual=(3, 5)),
    "odd widths": Case(((9, 15), (9, 1), (9, 33)), 17, norm="layer", activation="tanh"),
    "whole chunks": Case(((70, 64), (70, 128)), 72, norm="layer", activation="silu", gate=(72,), residual=(70, 72)),
    "one row": Case(((1, 9),), 1, norm="rms", activation="sigmoid", gate=(1,)),
    "no rows": Case(((0, 9),), 3, norm="layer"),
    "many shared rows": Case(((2, 300, 6), (2, 1, 35)), 8, activation="gelu", gate=(300, 1)),
    "chains of a product": Case(((1100, 6),), 5),
    "many rows, normalised": Case(((2, 300, 6), (2, 1, 35)), 8, norm="layer", activation="gelu", gate=(8,)),
    "nested": Case(((3, 2, 9, 6), (3, 1, 1, 5), (3, 2, 1, 4), (9, 3), (2,)), 17, norm="layer", gate=(17,)),
    "crosswise": Case(((2, 1, 6), (1, 9, 5)), 17, activation="gelu", gate=(2, 1, 1)),
}


@dtypes()
@pytest.mark.parametrize("name", SHAPES)
def test_shape(emulator, name, dtype):
    """Edges of tiles, of steps of the depth and of chunks of summed rows."""
    case = SHAPES[name]
    expected = Expectation(case, case.operands(dtype), rounded=dtype != torch.float32)
    with emulated(emulator):
        expected.check("cuda")


@dtypes()
def test_tiles_agree(emulator, dtype):
    """Wide and small tiles are the same numbers, in any order of threads."""
    case = Case(((2, 65, 70), (2, 1, 64)), 136, activation="gelu", gate=(136,), residual=(2, 65, 1))
    small = check(emulator, case, dtype)
    for seed in (1, 2):
        wide = check(emulator, case, dtype, seed=seed, **WIDE)
        for name, tensor in small.items():
            same_bits(name, tensor, wide[name])


@dtypes()
def test_normalised_tiles_agree(emulator, dtype):
    """The same with a norm."""
    case = Case(((65, 70), (65, 64)), 136, norm="layer", activation="silu", gate=(136,))
    small = check(emulator, case, dtype)
    wide = check(emulator, case, dtype, seed=1, **WIDE)
    for name, tensor in small.items():
        same_bits(name, tensor, wide[name])


@dtypes()
@pytest.mark.parametrize("norm", [None, "layer", "rms"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_norm(emulator, activation, norm, dtype):
    check(emulator, Case(((3, 5, 18), (3, 1, 5)), 19, norm=norm, activation=activation, gate=(19,)), dtype)


@pytest.mark.parametrize("gate", [None, (), (17,), (2, 1, 1), (9, 1), (2, 9, 17)])
@pytest.mark.parametrize("residual", [None, (), (17,), (2, 1, 17), (2, 9, 17)])
def test_epilogue(emulator, gate, residual):
    """Ways in which gate and residual broadcast, in the operands' dtype and in fp32."""
    case = Case(((2, 9, 6), (2, 1, 5)), 17, activation="gelu", gate=gate, residual=residual)
    check(emulator, case, torch.bfloat16)
    check(emulator, Case(**{**vars(case), "wide": True}), torch.float16)


@dtypes()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(emulator, layout, dtype):
    """Operands read where they lie."""
    for norm in (None, "layer"):
        case = Case(((2, 9, 64), (2, 1, 7)), 17, norm=norm, activation="gelu", gate=(9, 17), residual=(2, 9, 17),
                    layouts=(layout,), other_layout=layout)  # fmt: skip
        check(emulator, case, dtype)


@dtypes()
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_far_from_zero(emulator, norm, dtype):
    """|mean| >> std: the deviations are taken around the mean before anything is squared or multiplied."""
    offset = 300.0 if dtype == torch.float32 else 20.0
    check(emulator, Case(((9, 300), (9, 33)), 17, norm=norm, activation="gelu", offset=offset), dtype)


def test_rows_are_independent(emulator):
    """A NaN in one row stays there; a row's bits are the same in any batch."""
    case = Case(((70, 65), (70, 7)), 20, norm="layer", activation="gelu", gate=(20,))
    operands = case.operands(torch.bfloat16)
    with emulated(emulator):
        whole = fused(case, operands, backend="cuda").detach()
        with torch.no_grad():
            operands.inputs[0][3, 5] = torch.nan
        poisoned = fused(case, operands, backend="cuda").detach()
        operands.inputs[:] = [x[4:6].detach() for x in operands.inputs]
        few = fused(case, operands, backend="cuda").detach()
    others = [row for row in range(70) if row != 3]
    assert poisoned[3].isnan().all()
    same_bits("other rows", poisoned[others], whole[others])
    same_bits("two rows", few, whole[4:6])
