"""Bugs planted in the Triton concat_fusion kernels: each applies, and a small problem in the interpreter shows it."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.device.triton_fusion import interpreted
from tests.device.triton_interpreter import Bug, load
from tests.fusion.naive import Case
from tests.fusion.rule import Expectation

pytest.importorskip("triton", reason="triton is not installed")

PROBLEMS = {
    "sources": Case(((40, 37), (40, 5)), 34, activation="gelu", gate=(40, 1), residual=(34,)),
    "crosswise": Case(((2, 1, 6), (3, 5), (2, 3, 4)), 7),
    "layer": Case(((3, 5, 6), (3, 1, 35)), 40, norm="layer", activation="tanh", gate=(40,)),
    "far": Case(((9, 300),), 5, norm="layer", offset=300.0),
    "far, shared": Case(((3, 9, 30), (3, 1, 33)), 17, norm="layer", offset=300.0),
    "rms": Case(((3, 5, 6), (3, 1, 35)), 40, norm="rms"),
    "many rows": Case(((300, 6), (1, 3)), 5),
    "chains": Case(((1100, 6),), 5),
}


def bug(module: str, old: str, new: str) -> Bug:
    return Bug(module, old, new, op="fusion")


BUGS = {
    "the second source's features are the first's": (
        "sources",
        bug("forward", "weight_stride + first\n", "weight_stride + 0 * first\n"),
    ),
    "the last step of the depth is left out": (
        "sources",
        bug("forward", "for begin in range(0, width, DEPTH)", "for begin in range(0, width - DEPTH + 1, DEPTH)"),
    ),
    "features of a neighbour": ("sources", bug("forward", "(feature < width)[None, :]", "(feature <= width)[None, :]")),
    "the gate has columns": ("sources", bug("rows", "(column * operand.column)[None, :]", "column[None, :]")),
    "no residual": ("sources", bug("forward", "sizes, column, mask) + total", "sizes, column, mask) * 0 + total")),
    "dz without the gate": (
        "sources",
        bug("sums", "grad = grad * load_operand(gate", "grad = grad + 0 * load_operand(gate"),
    ),
    "a gate's sum without the activation": (
        "sources",
        bug("sums", "tl.where(mask, activate(z, ACTIVATION), 0.0), along_gate", "tl.where(mask, z, 0.0), along_gate"),
    ),
    "axes in the wrong order": (
        "crosswise",
        bug("rows", "chosen(strides[axis], source)", "chosen(strides[len(sizes) - 1 - axis], source)"),
    ),
    "own rows are not told apart": (
        "crosswise",
        bug("sums", "row_offset(own, own_sizes, operand.own) +", "row_offset(own, own_sizes, operand.own) * 0 +"),
    ),
    "squares are not centred": ("far", bug("statistics", "centre = total / features", "centre = total * 0.0")),
    "no epsilon": ("rms", bug("statistics", "tl.sqrt_rn(variance + eps)", "tl.sqrt_rn(variance * 1.001)")),
    "the norm's weight of the first source": (
        "layer",
        bug("forward", "norm_weight + first + feature", "norm_weight + feature"),
    ),
    "normalised zeros": ("layer", bug("gradients", "tl.where(wanted[None, :], moved, 0.0)", "(moved + 1.0)")),
    "no norm bias in the weight's gradient": (
        "layer",
        bug("gradients", "sum_out[:, None], tl.load", "0.0 * sum_out[:, None], tl.load"),
    ),
    "a level too few": (
        "layer",
        bug("gradients", "total -= load_statistic(level", "total -= 0.0 * load_statistic(level"),
    ),
    "the slope is not scaled": (
        "rms",
        bug("sums", "tl.sum(along_u, 1) * (scale * scale)", "tl.sum(along_u, 1) * scale"),
    ),
    "own rows keep another mean": (
        "layer",
        bug("sums", "levels += tl.fma(one, distance,", "levels += tl.fma(one, 0.0 * distance,"),
    ),
    "groups of outputs overlap": (
        "layer",
        bug("gradients", "group.to(tl.int64) * features", "0 * group.to(tl.int64) * features"),
    ),
    "a chunk is left out": ("many rows", bug("sums", "for chunk in range(chunks)", "for chunk in range(chunks - 1)")),
    "chunks overlap": ("many rows", bug("sums", "place = chunk * CHUNK", "place = chunk * (CHUNK - 1)")),
    "a chain is forgotten": ("chains", bug("gradients", "total += chained", "total = chained")),
}
QUICK = ("features of a neighbour", "axes in the wrong order")


@cache
def expectation(problem: str) -> Expectation:
    case = PROBLEMS[problem]
    return Expectation(case, case.operands(torch.float32))


def faults(problem: str, planted: Bug | None) -> list[str]:
    expected = expectation(problem)
    with interpreted(load(planted, op="fusion")) as device:
        found = expected.run("triton")
    assert device.calls == ["forward", "backward"]
    return expected.faults(found)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BUGS])
def test_bug_is_seen(name):
    problem, planted = BUGS[name]
    assert faults(problem, planted)


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem_has_no_fault_without_a_bug(problem):
    assert not faults(problem, None)
