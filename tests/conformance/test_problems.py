"""Every named problem on every backend, in every dtype: outputs, lse and all gradients against the fp64 reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.attention.inputs import Inputs
from bench.attention.problems import PROBLEMS, Problem, named
from tests.backends import CPU, DTYPES, EVERY, NATIVE, REFERENCE, Run, dtypes, runs
from tests.tolerance import Expectation

_expectations: dict[tuple[str, torch.dtype], Expectation] = {}


def expectation(problem: Problem, dtype: torch.dtype) -> Expectation:
    """The last few problems' references: several backends are compared with each."""
    key = (problem.name, dtype)
    if key not in _expectations:
        if len(_expectations) >= 2 * len(DTYPES):
            _expectations.pop(next(iter(_expectations)))
        _expectations[key] = Expectation(problem.make(dtype, seed=0, scale_down=True))
    return _expectations[key]


def check(problem: Problem, run: Run, dtype: torch.dtype) -> None:
    with run.active() as backend:
        expectation(problem, dtype).check(backend)


problems = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)


@problems
@dtypes()
@runs(REFERENCE, CPU)
def test_backend(problem: Problem, run: Run, dtype: torch.dtype) -> None:
    check(problem, run, dtype)


@problems
@runs(*NATIVE[1:])
def test_instruction_set(problem: Problem, run: Run) -> None:
    """The other instruction sets; the dtypes in turn, all of them in the slow run."""
    check(problem, run, DTYPES[PROBLEMS.index(problem) % len(DTYPES)])


@pytest.mark.parametrize(
    ("run", "dtype"),
    [(run, dtype) for run in EVERY for dtype in (torch.bfloat16, torch.float16) if not run.rounds_weights(dtype)],
    ids=lambda value: value.name if isinstance(value, Run) else str(value).removeprefix("torch."),
)
def test_16_bit_results_are_rounded_to_nearest(run: Run, dtype: torch.dtype) -> None:
    """The rule has room for truncation; fp32 arithmetic, rounded once, gives the rounded reference nearly always."""
    for name in ("ViT 197", "everything"):
        expected = expectation(named(name), dtype)
        with run.active() as backend:
            found = expected.check(backend)
        for result in ("out", "grad value 0"):
            right = found[result] == expected.reference[result].to(dtype)
            assert right.double().mean() > 0.99, f"{name}: {result}"


@dtypes(torch.bfloat16, torch.float16)
@runs(*EVERY)
def test_16_bit_results_are_right_on_average(run: Run, dtype: torch.dtype) -> None:
    """Sums of positive terms: truncated weights or results would lack half an eps each, rounded ones lack nothing."""
    query, key = torch.randn(2, 1, 4, 130, 32).to(dtype)
    value = torch.rand(1, 4, 130, 32).to(dtype)
    inputs = Inputs("attention", [query], [key], [value])
    cotangents = {"out": torch.rand(1, 4, 130, 32).to(dtype), "lse": torch.zeros(1, 4, 130)}
    expected = Expectation(inputs, cotangents=cotangents)
    with run.active() as backend:
        found = expected.check(backend)
    for result in ("out", "grad value 0"):
        error = found[result].double() / expected.reference[result] - 1
        assert error.mean().abs() < torch.finfo(dtype).eps / 16, result


@pytest.mark.slow
@problems
@dtypes()
@runs(*NATIVE[1:])
def test_instruction_set_and_dtype(problem: Problem, run: Run, dtype: torch.dtype) -> None:
    check(problem, run, dtype)


@pytest.mark.slow
@problems
@dtypes()
@runs(*EVERY)
def test_other_draws(problem: Problem, run: Run, dtype: torch.dtype) -> None:
    for seed in (1, 2):
        with run.active() as backend:
            Expectation(problem.make(dtype, seed, scale_down=True), seed).check(backend)


def full_length(problem: Problem) -> Problem:
    """As benchmarks run it, but with one key head and batch entry where the fp64 planes would not fit in memory."""
    pairs = problem.batch * problem.heads * problem.q_len * problem.k_len
    group = problem.heads // (problem.heads_k or problem.heads)
    return problem if pairs < 2e7 else replace(problem, batch=1, heads=group, heads_k=1)


@pytest.mark.nightly
@problems
@dtypes()
@runs(CPU)
def test_full_length(problem: Problem, run: Run, dtype: torch.dtype) -> None:
    with run.active() as backend:
        Expectation(full_length(problem).make(dtype)).check(backend)


@runs(REFERENCE)
@pytest.mark.parametrize("problem", PROBLEMS[::4], ids=lambda problem: problem.name)
def test_fp64(problem: Problem, run: Run) -> None:
    """The reference backend computes fp64 in fp64."""
    Expectation(problem.make(torch.float64, seed=0, scale_down=True)).check(run.backend)
