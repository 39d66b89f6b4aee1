"""concat_fusion on every backend and dtype against fp64, forward and every gradient: its forms and sizes."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from tests.backends import CPU, EVERY, NATIVE, REFERENCE, Run, default_runs, dtypes, runs
from tests.fusion.naive import ACTIVATIONS, CASES, Case
from tests.fusion.rule import Expectation


@functools.lru_cache(maxsize=16)
def expectation(case: Case, dtype: torch.dtype, rounded: bool = False) -> Expectation:
    """Made once for all runs, which are the fastest axis of every test here."""
    return Expectation(case, case.operands(dtype), rounded=rounded)


def check(case: Case, dtype: torch.dtype, run: Run) -> None:
    with run.active() as backend:
        expectation(case, dtype, run.rounds_weights(dtype)).check(backend)


@runs(*EVERY)
@dtypes()
@pytest.mark.parametrize("name", CASES)
def test_form(name: str, dtype: torch.dtype, run: Run) -> None:
    """Every branch of the op, small."""
    check(CASES[name], dtype, run)


ROWS = (0, 1, 2, 7, 8, 9, 31, 33, 65, 257, 300)
WIDTHS = (0, 1, 2, 3, 15, 16, 17, 31, 33, 255, 257, 513)
OUTS = (1, 15, 16, 17, 33, 300)


@default_runs()
@pytest.mark.parametrize("rows", ROWS)
def test_rows(rows: int, run: Run) -> None:
    """Sizes around the edges of tiles, in dtypes that take turns."""
    dtype = (torch.float32, torch.bfloat16, torch.float16)[rows % 3]
    check(Case(((rows, 17), (rows, 3)), 33, norm="layer", activation="gelu", gate=(), residual=(rows, 33)), dtype, run)
    check(Case(((rows, 17),), 5), torch.float32, run)


@default_runs()
@pytest.mark.parametrize("width", WIDTHS)
def test_width(width: int, run: Run) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check(Case(((9, width),), 17, activation="silu"), dtype, run)
        check(Case(((2, 9, width), (2, 1, 3), (2, 9, 2)), 17, norm="layer", gate=(17,)), dtype, run)


@default_runs()
@pytest.mark.parametrize("out", OUTS)
def test_out(out: int, run: Run) -> None:
    for dtype in (torch.float32, torch.float16):
        check(Case(((7, 31), (7, 2)), out, norm="rms", activation="gelu_tanh", residual=(7, out)), dtype, run)


@default_runs()
@dtypes()
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_number_of_sources(count: int, dtype: torch.dtype, run: Run) -> None:
    """Odd widths, so that no source after the first starts on a boundary of lanes or of bf16 pairs."""
    widths = (15, 1, 7, 33, 2)[:count]
    check(Case(tuple((19, width) for width in widths), 16, norm="layer", activation="tanh"), dtype, run)
    check(Case(tuple((19, width) for width in widths), 16, activation="sigmoid", gate=(19, 1)), dtype, run)


@default_runs()
@dtypes()
@pytest.mark.parametrize("norm", [None, "layer", "rms"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_norm(activation: str | None, norm: str | None, dtype: torch.dtype, run: Run) -> None:
    for affine in (True, False) if norm else (True,):
        case = Case(((3, 11, 18), (3, 1, 5)), 19, norm=norm, activation=activation, gate=(19,), affine=affine)
        check(case, dtype, run)


EPILOGUES = [
    *itertools.product([None, (), (1,), (17,), (2, 1, 1), (9, 1), (2, 9, 17)], [None]),
    *itertools.product([None, (17,)], [(), (17,), (9, 1), (2, 1, 17), (1, 9, 17), (2, 9, 17)]),
]


@default_runs()
@pytest.mark.parametrize(("gate", "residual"), EPILOGUES)
def test_epilogue(gate: tuple[int, ...] | None, residual: tuple[int, ...] | None, run: Run) -> None:
    """Every way in which gate and residual can broadcast, in the operands' dtype and in fp32."""
    case = Case(((2, 9, 6), (2, 1, 5)), 17, activation="gelu", gate=gate, residual=residual)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check(case, dtype, run)
        if dtype != torch.float32:
            check(Case(**{**vars(case), "wide": True}), dtype, run)


@default_runs()
@dtypes(torch.bfloat16, torch.float16)
@pytest.mark.parametrize("name", ["layer broadcast", "rms broadcast", "scalar gate", "vectors", "gelu_tanh"])
def test_wide_parameters(name: str, dtype: torch.dtype, run: Run) -> None:
    """16-bit features and weight; bias, norm, gate and residual in fp32, which the output is then not narrowed from."""
    check(Case(**{**vars(CASES[name]), "wide": True}), dtype, run)


BROADCASTS = {
    "one vector": ((2, 9, 6), (5,)),
    "per image": ((2, 9, 6), (2, 1, 5)),
    "per token": ((2, 9, 6), (1, 9, 5)),
    "per token, fewer axes": ((2, 9, 6), (9, 5)),
    "crosswise": ((2, 1, 6), (1, 9, 5)),
    "crosswise and whole": ((2, 1, 6), (1, 9, 5), (2, 9, 3)),
    "nested": ((3, 2, 9, 6), (3, 1, 1, 5), (3, 2, 1, 4), (9, 3), (2,)),
    "outer and inner": ((3, 2, 9, 6), (3, 1, 9, 5)),
    "middle only": ((3, 2, 9, 6), (1, 2, 1, 5)),
    "all shared": ((3, 1, 1, 6), (1, 2, 1, 5), (1, 1, 9, 4)),
    "one row": ((1, 1, 6), (1, 5)),
    "many tokens": ((2, 140, 6), (2, 1, 35)),
}


@default_runs()
@pytest.mark.parametrize("norm", [None, "layer", "rms"])
@pytest.mark.parametrize("name", BROADCASTS)
def test_broadcast_sources(name: str, norm: str | None, run: Run) -> None:
    case = Case(BROADCASTS[name], 17, norm=norm, activation="gelu", gate=(17,))
    for dtype in (torch.float32, torch.bfloat16):
        check(case, dtype, run)


@pytest.mark.slow
@runs(*EVERY)
@dtypes()
@pytest.mark.parametrize("rows", ROWS)
def test_sizes(rows: int, dtype: torch.dtype, run: Run) -> None:
    """Every width and every number of outputs beside every number of rows; norm and activation take turns."""
    forms = itertools.cycle(itertools.product([None, "layer", "rms"], ACTIVATIONS))
    for width, out in itertools.product(WIDTHS, OUTS):
        norm, activation = next(forms)
        case = Case(((rows, width), (1, 3)), out, norm=norm, activation=activation, residual=(rows, out))
        check(case, dtype, run)


@pytest.mark.slow
@runs(REFERENCE, *NATIVE)
@dtypes()
@pytest.mark.parametrize("first", WIDTHS)
def test_pairs_of_widths(first: int, dtype: torch.dtype, run: Run) -> None:
    for second in WIDTHS:
        if first + second == 0:
            continue
        check(Case(((9, first), (9, second)), 17, norm="layer", activation="silu"), dtype, run)
        check(Case(((2, 5, first), (2, 1, second)), 17, norm="rms", gate=()), dtype, run)


def test_the_cpu_backend_is_chosen_by_default() -> None:
    """What these tests check by name is what a user gets without one."""
    case = CASES["layer broadcast"]
    with CPU.active() as backend:
        wanted, found = (Expectation(case, case.operands(torch.float32)).run(name) for name in (backend, None))
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
