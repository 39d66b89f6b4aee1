"""contrastive_loss: the same bits from run to run, at any number of threads and in any layout."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.backends import NATIVE, Run, default_runs, dtypes, runs
from tests.contrastive.naive import KINDS, Case, fused, results_of
from tests.layouts import laid_out
from tests.tolerance import same_bits

FORMS = {
    "pairs": (600, 600, 16, "pairs", 0.0, "mean"),
    "index": (600, 600, 33, "index", 0.1, "none"),
    "several": (300, 513, 65, "several", 0.1, "sum"),
    "few rows": (3, 2000, 65, "index", 0.0, "mean"),
    "few columns": (2000, 3, 65, "several", 0.0, "mean"),
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def case_of(name: str, kind: str) -> Case:
    rows, columns, width, positives, smoothing, reduction = FORMS[name]
    return Case(rows, columns, width, kind, positives, smoothing, reduction)


def results(case: Case, operands: list, run: Run) -> dict[str, torch.Tensor]:
    with run.active() as backend:
        loss = fused(operands, *case.call(), backend=backend)
        grad = torch.randn(loss.shape, generator=torch.Generator().manual_seed(1))
        return results_of(loss, operands, grad)


@default_runs()
@dtypes()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMS)
def test_run_to_run(name: str, kind: str, dtype: torch.dtype, run: Run) -> None:
    case = case_of(name, kind)
    operands = case.operands(dtype)
    first, second = (results(case, operands, run) for _ in range(2))
    for key, tensor in second.items():
        same_bits(key, tensor, first[key])


@runs(*NATIVE)
@dtypes()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMS)
def test_threads(name: str, kind: str, dtype: torch.dtype, run: Run) -> None:
    case = case_of(name, kind)
    operands = case.operands(dtype)
    torch.set_num_threads(1)
    expected = results(case, operands, run)
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        for key, tensor in results(case, operands, run).items():
            same_bits(f"{threads} threads: {key}", tensor, expected[key])


@pytest.mark.slow
@runs(*NATIVE)
@dtypes()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 33, 257, 1025, 2100])
def test_threads_at_other_sizes(rows: int, kind: str, dtype: torch.dtype, run: Run) -> None:
    case = Case(rows, rows, 40, kind, smoothing=0.1)
    operands = case.operands(dtype)
    torch.set_num_threads(1)
    expected = results(case, operands, run)
    for threads in (2, 3, 4, 7, 16):
        torch.set_num_threads(threads)
        for key, tensor in results(case, operands, run).items():
            same_bits(f"{threads} threads: {key}", tensor, expected[key])


@runs(*NATIVE)
@dtypes()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["transposed", "odd slice", "strided", "odd offset"])
def test_layout_does_not_matter(layout: str, kind: str, dtype: torch.dtype, run: Run) -> None:
    case = Case(70, 70, 17, kind, "several", 0.1)
    operands = case.operands(dtype)
    expected = results(case, operands, run)
    again = [*(laid_out(x, layout) for x in operands[:2]), *operands[2:]]
    for key, tensor in results(case, again, run).items():
        same_bits(key, tensor, expected[key])
