"""contrastive_loss on every backend and dtype against fp64, loss and every gradient: its forms, sizes and layouts."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from tests.backends import CPU, EVERY, Run, default_runs, dtypes, runs
from tests.contrastive.naive import KINDS, POSITIVES, Case
from tests.contrastive.rule import Expectation
from tests.layouts import LAYOUTS

every_run = runs(*EVERY)


@functools.lru_cache(maxsize=16)
def expectation(case: Case, dtype: torch.dtype) -> Expectation:
    """Made once for all runs, which are the fastest axis of every test here."""
    return Expectation(case, case.operands(dtype))


def check(case: Case, dtype: torch.dtype, run: Run) -> None:
    with run.active() as backend:
        expectation(case, dtype).check(backend)


@every_run
@dtypes()
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_form(kind: str, positives: str, smoothing: float, dtype: torch.dtype, run: Run) -> None:
    for reduction in ("mean", "sum", "none"):
        check(Case(33, 33, 17, kind, positives, smoothing, reduction), dtype, run)
        if positives != "pairs" and not (kind == "softmax" and reduction == "none"):
            check(Case(19, 33, 17, kind, positives, smoothing, reduction, bias=None), dtype, run)


LENGTHS = (1, 2, 7, 31, 33, 255, 257, 300, 513)
DIMS = (1, 2, 3, 17, 64, 513)


@default_runs()
@pytest.mark.parametrize("rows", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_length(kind: str, rows: int, run: Run) -> None:
    """As many columns, one more, and one: dtypes take turns."""
    dtype = (torch.float32, torch.bfloat16, torch.float16)[rows % 3]
    check(Case(rows, rows, 17, kind, smoothing=0.1, reduction="none"), torch.float32, run)
    check(Case(rows, rows + 1, 17, kind, "index"), dtype, run)
    check(Case(rows, 1, 17, kind, "several"), torch.float32, run)
    check(Case(1, rows, 17, kind, "index", reduction="sum"), dtype, run)


@default_runs()
@dtypes()
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_dim(kind: str, dim: int, dtype: torch.dtype, run: Run) -> None:
    check(Case(35, 35, dim, kind), dtype, run)
    check(Case(9, 70, dim, kind, "several", 0.1), dtype, run)


@default_runs()
@dtypes()
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0, -14.3])
@pytest.mark.parametrize("kind", KINDS)
def test_scale(kind: str, scale: float, dtype: torch.dtype, run: Run) -> None:
    for bias in (None, 0.0, -10.0, 3.5):
        check(Case(40, 40, 33, kind, scale=scale, bias=bias), dtype, run)
        check(Case(40, 23, 33, kind, "several", 0.1, scale=scale, bias=bias), dtype, run)


@default_runs()
@dtypes()
@pytest.mark.parametrize("length", [1e-3, 3.0, 10.0])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_of_embeddings(length: float, kind: str, dtype: torch.dtype, run: Run) -> None:
    """Logits of up to 1,430: probabilities of 0 and 1, losses of hundreds."""
    check(Case(40, 40, 33, kind, smoothing=0.1, length=length), dtype, run)
    check(Case(40, 23, 33, kind, "index", reduction="sum", length=length), dtype, run)


@default_runs()
@dtypes()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_layout_of_embeddings(kind: str, layout: str, dtype: torch.dtype, run: Run) -> None:
    check(Case(35, 35, 18, kind, layouts=(layout, "contiguous")), dtype, run)
    check(Case(35, 40, 18, kind, "index", 0.1, layouts=("contiguous", layout)), dtype, run)
    check(Case(35, 40, 18, kind, "several", layouts=(layout, layout)), dtype, run)


@default_runs()
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
@pytest.mark.parametrize("positives", ["index", "several"])
@pytest.mark.parametrize("kind", KINDS)
def test_layout_of_targets(kind: str, positives: str, layout: str, run: Run) -> None:
    check(Case(35, 40, 18, kind, positives, targets_layout=layout), torch.float32, run)


@default_runs()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_scale_and_bias_of_another_dtype(kind: str, dtype: torch.dtype, run: Run) -> None:
    """They may be of any floating dtype; the loss is fp32 and their gradients are theirs."""
    case = Case(35, 35, 17, kind, scale=14.25, bias=-7.0)
    operands = case.operands(torch.float32)
    operands[2:] = [t.detach().to(dtype).requires_grad_() for t in operands[2:]]
    with run.active() as backend:
        found = Expectation(case, operands).check(backend)
    assert found["scale"].dtype == found["bias"].dtype == dtype


@pytest.mark.slow
@every_run
@dtypes()
@pytest.mark.parametrize("rows", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_sizes(kind: str, rows: int, dtype: torch.dtype, run: Run) -> None:
    forms = itertools.cycle(itertools.product(("index", "several"), (0.0, 0.1), ("mean", "sum")))
    for columns, dim in itertools.product(LENGTHS, DIMS):
        positives, smoothing, reduction = next(forms)
        check(Case(rows, columns, dim, kind, positives, smoothing, reduction), dtype, run)


@pytest.mark.slow
@every_run
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_batch(kind: str, run: Run) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check(Case(1300, 1300, 64, kind), dtype, run)
        check(Case(700, 2001, 33, kind, "index", 0.1), dtype, run)


def test_the_cpu_backend_is_chosen_by_default() -> None:
    """What these tests check by name is what a user gets without one."""
    case = Case(70, 70, 17)
    with CPU.active() as backend:
        wanted, found = (expectation(case, torch.float32).run(name) for name in (backend, None))
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
