"""Bugs planted in the Triton contrastive_loss kernels: each applies, and a small problem shows it."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

from tests.contrastive.naive import Case
from tests.contrastive.rule import Expectation
from tests.device.triton_contrastive import interpreted
from tests.device.triton_interpreter import Bug, load

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

PROBLEMS = {
    "softmax": Case(80, 70, 9, "softmax", "several", 0.1, "sum"),
    "index": Case(80, 70, 9, "softmax", "index"),
    "sigmoid": Case(80, 70, 9, "sigmoid", "several", 0.1, "sum"),
    "pairs": Case(70, 70, 65, "softmax"),
    "near zero": Case(40, 40, 9, "sigmoid", scale=1.0, bias=0.0),
    "far": Case(40, 35, 24, "softmax", "index", 0.1, length=10.0),
    "small slopes": Case(40, 40, 33, "softmax", scale=1000.0, length=0.1),
}
bug = partial(Bug, op="contrastive")
BUGS = {
    "one column too many": (
        "softmax",
        bug("tile", "& (column < band.columns)[None", "& (column <= band.columns)[None"),
    ),
    "the diagonal is one off": ("pairs", bug("tile", "(row[:, None] == column", "(row[:, None] + 1 == column")),
    "rows of the matrix for columns": ("softmax", bug("tile", "row[:, None] * targets.matrix_row", "row[:, None]")),
    "features are left out": ("pairs", bug("tile", "range(0, image.dim, DEPTH)", "range(0, image.dim - 1, DEPTH)")),
    "the sum over all has no edge": ("softmax", bug("statistics", "tl.where(exists, logits, 0.0)", "logits")),
    "a tile's sum is not scaled": ("softmax", bug("statistics", "tile_sums * tile_factor", "tile_sums")),
    "columns forget bands": ("softmax", bug("statistics", "tl.where(begins == 1, 0, count)", "0 * count")),
    "the logarithm of every band": (
        "softmax",
        bug("statistics", "tl.where(ends == 1, tl.log(sums), sums)", "tl.log(sums)"),
    ),
    "hits of the row only": (
        "index",
        bug("slopes", " + side_number(column_side, 3, band.columns, column, 0)", ""),
    ),
    "levels of the row only": (
        "softmax",
        bug("slopes", " + side_number(column_side, 4, band.columns, column, 0)", ""),
    ),
    "slopes behind the last column": ("far", bug("slopes", "tl.where(inside(row, column, band), dx, 0.0)", "dx")),
    "a positive's slope has the other sign": ("sigmoid", bug("slopes", "tl.where(positive, -dx, dx)", "dx")),
    "losses behind the last column": ("sigmoid", bug("slopes", "tl.where(exists, terms, 0.0)", "terms")),
    "a coefficient of the logarithm": ("near zero", bug("slopes", "0.333333403", "0.333433403")),
    "sums of bands in one place": ("sigmoid", bug("slopes", "tl.cast(band.tiles_before, tl.int64) + ", "")),
    "no power of two": ("small slopes", bug("slopes", "254 + TOP - exponent", "127 + 0 * exponent")),
    "the power of two is left": ("softmax", bug("gradient", " * tl.load(power + 1)", "")),
    "the text's gradient forgets bands": (
        "sigmoid",
        bug("gradient", "tl.where(begins == 1, 0, count)", "0 * count"),
    ),
}
QUICK = ("the text's gradient forgets bands",)


@cache
def expectation(problem: str) -> Expectation:
    case = PROBLEMS[problem]
    if problem == "small slopes":
        return Expectation(case, case.operands(torch.float16), torch.tensor(1e-6))
    operands = case.operands(torch.float32)
    if problem == "far":  # every logit is far below zero
        with torch.no_grad():
            for operand, sign in zip(operands[:2], (1, -1), strict=True):
                operand.copy_(sign * (1.0 + 0.1 * operand.abs()))
    return Expectation(case, operands)


def faults(problem: str, planted: Bug | None) -> list[str]:
    """Of two bands of tiles, or one where a problem has no more rows."""
    with interpreted(load(planted, op="contrastive"), band_pairs=1) as asked:
        found = expectation(problem).run("triton")
    assert asked
    return expectation(problem).faults(found)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BUGS]
)
def test_bug_is_seen(name):
    assert faults(*BUGS[name])


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem_has_no_fault_without_a_bug(problem):
    assert not faults(problem, None)
