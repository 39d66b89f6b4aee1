"""The same bits at every number of threads: every problem, forward and backward, split or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from bench.attention.problems import PROBLEMS, Problem
from tests import plain
from tests.backends import CPU, DTYPES, NATIVE, Run, dtypes, runs
from tests.tolerance import same_bits


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def check(inputs: Inputs, run: Run, counts: tuple[int, ...]) -> None:
    """The same results at each of these numbers of threads."""
    ends = plain.cotangents(inputs)
    expected = None
    for threads in counts:
        torch.set_num_threads(threads)
        with run.active() as backend:
            found = plain.run(inputs, backend, ends)
        expected = expected or found
        for name, tensor in expected.items():
            same_bits(f"{threads} threads: {name}", found[name], tensor)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@runs(CPU)
def test_problem(problem: Problem, run: Run) -> None:
    dtype = DTYPES[PROBLEMS.index(problem) % len(DTYPES)]
    check(problem.make(dtype, scale_down=True), run, (1, 2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@dtypes()
@runs(*NATIVE)
def test_problem_everywhere(problem: Problem, run: Run, dtype: torch.dtype) -> None:
    check(problem.make(dtype, scale_down=True), run, (1, 2, 3, 4, 7))


def few_rows(q_len: int, k_len: int, heads: int, dtype: torch.dtype) -> Inputs:
    tensors = [torch.randn(1, h, n, 32).to(dtype) for h, n in ((heads, q_len), (1, k_len), (1, k_len))]
    return Inputs("attention", *([x] for x in tensors))


@pytest.mark.parametrize(("q_len", "k_len", "heads"), [(1, 9000, 1), (7, 5000, 3), (70, 5000, 1), (300, 3001, 1)])
@dtypes()
@runs(*NATIVE)
def test_split_keys(q_len: int, k_len: int, heads: int, run: Run, dtype: torch.dtype) -> None:
    """Fewer tiles than threads and work enough: the keys are split between threads."""
    inputs = few_rows(q_len, k_len, heads, dtype)
    check(inputs, run, (1, 4, 16))
    mask = mmk.Mask.window(100, k_len // 2)
    check(replace(inputs, mask=mask, options={"dropout_p": 0.1, "seed": 3, "softcap": 2.0}), run, (1, 4, 16))


@runs(*NATIVE)
def test_split_segments(run: Run) -> None:
    """Chunks stop at the ends of segments, which need not be whole chunks."""
    lengths = (700, 0, 3000, 65)
    keys, values = ([torch.randn(1, 2, n, 64) for n in lengths] for _ in range(2))
    inputs = Inputs("attention", [torch.randn(1, 4, 2, 64)], keys, values)
    check(inputs, run, (1, 3, 16))


@runs(*NATIVE)
def test_split_packed_sequences(run: Run) -> None:
    """Sequences of very different lengths, some empty, and fewer of them than threads."""
    q_lens, k_lens = (1, 0, 40, 3), (6000, 7, 700, 0)
    cuts = [torch.tensor([0, *lens]).cumsum(0).to(torch.int32) for lens in (q_lens, k_lens)]
    tensors = [torch.randn(sum(lens), 2, 64) for lens in (q_lens, k_lens, k_lens)]
    inputs = Inputs("varlen", *([x] for x in tensors), mmk.Mask.causal("bottom_right"), None, *cuts)
    check(inputs, run, (1, 3, 16))


BIASES = {
    "dense": (3, 4, 130, 300), "shared by the batch": (1, 4, 130, 300), "shared by heads": (3, 1, 130, 300),
    "shared by rows": (3, 4, 1, 300), "one row": (1, 1, 1, 300), "per row": (1, 4, 130, 1), "one number": (1, 1, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("shared", BIASES)
@pytest.mark.parametrize("heads_k", [1, 4])
@runs(*NATIVE)
def test_gradient_of_a_bias(shared: str, heads_k: int, run: Run) -> None:
    """Sums over batch, heads and rows, in an order of their own, whichever pass makes them."""
    sizes = ((4, 130), (heads_k, 300), (heads_k, 300))
    tensors = [torch.randn(3, heads, length, 32) for heads, length in sizes]
    check(Inputs("attention", *([x] for x in tensors), None, torch.randn(BIASES[shared])), run, (1, 2, 4, 16))


@pytest.mark.parametrize("heads_k", [1, 4])
@pytest.mark.parametrize("table_heads", [1, 4])
@runs(*NATIVE)
def test_gradient_of_a_structured_bias(heads_k: int, table_heads: int, run: Run) -> None:
    """Long enough for several chunks of rows."""
    sizes = ((4, 1100), (heads_k, 120), (heads_k, 120))
    tensors = [torch.randn(2, heads, length, 8) for heads, length in sizes]
    inputs = Inputs("attention", *([x] for x in tensors))
    table = mmk.RelativeBias(torch.randn(table_heads, 1219))
    parts = mmk.DecomposedBias(torch.randn(2, table_heads, 1100, 10), torch.randn(2, table_heads, 1, 12))
    for bias in (table, parts):
        check(replace(inputs, bias=bias), run, (1, 2, 4, 16))
