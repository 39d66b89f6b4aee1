"""The GPU backends of contrastive_loss on a device, against fp64; `make gpu-check` counts these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.backends import dtypes
from tests.contrastive.naive import KINDS, POSITIVES, Case
from tests.contrastive.rule import Expectation
from tests.on_gpu import Counted, counted, on_backends
from tests.tolerance import same_bits

SIZES = ((1, 1, 1), (1, 130, 8), (129, 1, 33), (128, 128, 64), (65, 260, 96), (513, 700, 520))


@pytest.fixture(autouse=True)
def module(backend: str, record_property) -> Iterator[Counted]:
    """The backend of the test, whose calls are counted."""
    yield from counted("contrastive_loss", backend, record_property)


def check(case: Case, dtype: torch.dtype, backend: str) -> None:
    Expectation(case, case.operands(dtype)).check(backend, "cuda")


@on_backends
@dtypes()
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_form_on_gpu(kind: str, positives: str, dtype: torch.dtype, backend: str) -> None:
    for smoothing, reduction in ((0.0, "mean"), (0.1, "sum"), (0.1, "none")):
        check(Case(33, 33, 17, kind, positives, smoothing, reduction), dtype, backend)


@on_backends
@dtypes()
@pytest.mark.parametrize(("rows", "columns", "width"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_size_on_gpu(kind: str, rows: int, columns: int, width: int, dtype: torch.dtype, backend: str) -> None:
    check(Case(rows, columns, width, kind, "index"), dtype, backend)


@on_backends
@dtypes()
@pytest.mark.parametrize("kind", KINDS)
def test_bits_repeat_on_gpu(kind: str, dtype: torch.dtype, backend: str) -> None:
    case = Case(300, 300, 136, kind, smoothing=0.1)
    expected = Expectation(case, case.operands(dtype))
    first, again = expected.run(backend, "cuda"), expected.run(backend, "cuda")
    for name, tensor in first.items():
        same_bits(name, tensor, again[name])
