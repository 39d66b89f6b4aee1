"""The Triton concat_fusion kernels, run by Triton's interpreter, forward and backward, against fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmkernels.backend import Problem
from mmkernels.ops.fusion import triton
from tests.device import triton_interpreter
from tests.device.triton_fusion import check_activation, interpreted
from tests.fusion.naive import ACTIVATIONS, CASES, Case, fused
from tests.fusion.rule import Expectation
from tests.layouts import LAYOUTS
from tests.tolerance import same_bits

pytest.importorskip("triton", reason="triton is not installed")

DTYPES = [torch.float32, torch.float16]
slow = pytest.mark.slow
QUICK = ("broadcast", "layer broadcast", "rms")


@pytest.fixture(scope="module")
def host():
    """The host side, above interpreted kernels."""
    return triton_interpreter.load(op="fusion")


def check(host, case, dtype):
    """Every result, held to the rule; normalised features and dz are rounded where they are 16-bit operands."""
    expected = Expectation(case, case.operands(dtype), rounded=dtype != torch.float32)
    with interpreted(host) as device:
        found = expected.check("triton")
    assert device.calls == ["forward", "backward"]
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else slow) for name in CASES])
def test_form(host, name, dtype):
    """Every branch of the op, small."""
    check(host, CASES[name], dtype)


SHAPES = {
    "two tiles": Case(((70, 65),), 66, activation="gelu"),
    "many steps": Case(((3, 200), (3, 64), (3, 1)), 5, gate=(), residual=(3, 5)),
    "odd widths": Case(((9, 15), (9, 1), (9, 33)), 17, norm="layer", activation="tanh"),
    "whole tiles": Case(((64, 64), (64, 32)), 96, norm="layer", activation="silu", gate=(96,), residual=(64, 96)),
    "one row": Case(((1, 9),), 1, norm="rms", activation="sigmoid", gate=(1,)),
    "no rows": Case(((0, 9),), 3, norm="layer"),
    "no outputs": Case(((4, 9),), 0, norm="layer"),
    "many shared rows": Case(((2, 300, 6), (2, 1, 35)), 8, activation="gelu", gate=(300, 1)),
    "chains of a product": Case(((1100, 6),), 5),
    "many rows, normalised": Case(((2, 300, 6), (2, 1, 35)), 8, norm="layer", activation="gelu", gate=(8,)),
    "groups of outputs": Case(((5, 6), (5, 35)), 70, norm="layer"),
    "nested": Case(((3, 2, 9, 6), (3, 1, 1, 5), (3, 2, 1, 4), (9, 3), (2,)), 17, norm="layer", gate=(17,)),
    "crosswise": Case(((2, 1, 6), (1, 9, 5)), 17, activation="gelu", gate=(2, 1, 1)),
    "only widths of zero are shared": Case(((2, 9, 6), (2, 1, 0)), 17, norm="rms"),
}


@slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_shape(host, name, dtype):
    """Edges of tiles, of steps of the depth and of chunks of summed rows; nothing of a call."""
    case = SHAPES[name]
    expected = Expectation(case, case.operands(dtype), rounded=dtype != torch.float32)
    with interpreted(host):
        expected.check("triton")


@pytest.mark.parametrize("norm", [pytest.param(None), pytest.param("layer", marks=slow)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(host, activation, norm):
    check(host, Case(((3, 5, 18), (3, 1, 5)), 19, norm=norm, activation=activation, gate=(19,)), torch.float32)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name])
def test_activation_far_and_near(host, activation):
    with interpreted(host), np.errstate(all="ignore"):
        check_activation(activation)


@slow
@pytest.mark.parametrize("gate", [None, (), (17,), (2, 1, 1), (9, 1), (2, 9, 17)])
@pytest.mark.parametrize("residual", [None, (17,), (2, 9, 17)])
def test_epilogue(host, gate, residual):
    """Ways in which gate and residual broadcast, in the operands' dtype and in fp32."""
    case = Case(((2, 9, 6), (2, 1, 5)), 17, activation="gelu", gate=gate, residual=residual)
    check(host, case, torch.float16)
    check(host, Case(**{**vars(case), "wide": True}), torch.float16)


@slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", [None, "layer"])
def test_layout(host, norm, layout):
    """Operands read where they lie."""
    case = Case(((2, 9, 64), (2, 1, 7)), 17, norm=norm, activation="gelu", gate=(9, 17), residual=(2, 9, 17),
                layouts=(layout,), other_layout=layout)  # fmt: skip
    check(host, case, torch.float16)


@slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_far_from_zero(host, norm, dtype):
    """|mean| >> std: the deviations are taken around the mean before anything is squared or multiplied."""
    offset = 300.0 if dtype == torch.float32 else 20.0
    check(host, Case(((9, 300), (9, 33)), 17, norm=norm, activation="gelu", offset=offset), dtype)
    check(host, Case(((3, 9, 30), (3, 1, 33)), 17, norm=norm, offset=offset), dtype)


@slow
def test_sixteen_sources(host):
    widths = (1, 2, 0, 33, 4, 5, 6, 40, 7, 1, 3, 2, 9, 8, 5, 6)
    shapes = tuple((3, 5, width) if i % 3 else (3, 1, width) for i, width in enumerate(widths))
    check(host, Case(shapes, 19, activation="silu"), torch.float32)


def test_rows_are_independent(host):
    """A NaN in one row stays there; a row's bits are the same in any batch."""
    case = Case(((70, 65), (70, 7)), 20, norm="layer", activation="gelu", gate=(20,))
    operands = case.operands(torch.float16)
    with interpreted(host):
        whole = fused(case, operands, backend="triton").detach()
        with torch.no_grad():
            operands.inputs[0][3, 5] = torch.nan
        poisoned = fused(case, operands, backend="triton").detach()
        operands.inputs[:] = [x[4:6].detach() for x in operands.inputs]
        few = fused(case, operands, backend="triton").detach()
    others = [row for row in range(70) if row != 3]
    assert poisoned[3].isnan().all()
    same_bits("other rows", poisoned[others], whole[others])
    same_bits("two rows", few, whole[4:6])


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([(4, 2)] * 17 + [(6, 34)], "17 inputs are more than 16"),
        ([(2**16, 1, 3), (2**15, 2), (6, 5)], "2147483648 rows are more than 2147482624"),
        ([(4, 2**31), (6, 2**31)], "2147483648 features are more than 2147482624"),
        ([(4, 2), (2**31, 2)], "2147483648 outputs are more than 2147482624"),
        ([(1,) * 17 + (2,), (6, 2)], "17 leading axes are above 16"),
    ],
)
def test_limits(shapes, reason):
    problem = Problem("concat_fusion_forward", torch.device("cuda"), torch.float32, tuple(shapes))
    assert triton.limits(problem) == [reason]


def test_reasons_are_given_where_there_is_no_gpu():
    problem = Problem("concat_fusion_forward", torch.device("cpu"), torch.float64, ((4, 2), (6, 2)))
    assert "the tensors are on cpu, not on a GPU" in triton.why_not(problem)
    assert "it has no torch.float64 kernels" in triton.why_not(problem)


@slow
@pytest.mark.parametrize("form", ["one number", "rows apart", "columns first"])
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_gradient_that_arrives_in_another_layout(host, activation, form):
    case = Case(((4, 9, 6), (4, 1, 5)), 17, norm="layer", activation=activation)
    numbers = torch.randn(4, 9, 34, generator=torch.Generator().manual_seed(2))
    grad = {
        "one number": torch.ones(()).expand(4, 9, 17),
        "rows apart": numbers[..., :17],
        "columns first": numbers[..., :17].transpose(0, 2).contiguous().transpose(0, 2),
    }[form]
    expected = Expectation(case, case.operands(torch.float32), grad)
    with interpreted(host):
        expected.check("triton")


@slow
@pytest.mark.parametrize("norm", [None, "layer", "rms"])
def test_each_gradient_alone(host, norm):
    """What is wanted beside it moves no bit of a gradient."""
    case = Case(((4, 9, 6), (4, 1, 5)), 17, norm=norm, activation="silu", gate=(9, 1), residual=(17,))
    whole = check(host, case, torch.float32)
    for name in case.operands(torch.float32).named():
        operands = case.operands(torch.float32)
        for other, tensor in operands.named().items():
            tensor.requires_grad_(other == name)
        with interpreted(host):
            out = fused(case, operands, backend="triton")
            grad = Expectation(case, case.operands(torch.float32)).grad
            found = torch.autograd.grad(out, operands.named()[name], grad)[0]
        same_bits(name, found, whole[name])
