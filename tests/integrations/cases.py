"""Parametrising a test over `row`: a sample in every run, the others slow."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integrations.rows import Row


def rows(*which: Row, sample: bool = True) -> Any:
    """All but a sample are slow."""
    marks = [[pytest.mark.slow] if row.slow or not sample else [] for row in which]
    cases = [pytest.param(row, marks=mark, id=row.name) for row, mark in zip(which, marks, strict=True)]
    return pytest.mark.parametrize("row", cases)


def compiled_rows(*which: Row, quick: tuple[str, ...] = ()) -> Any:
    """Those that compile; those named `quick` in every run, all but a sample in nightly runs only."""
    which = [row for row in which if row.compiles]
    marks = [[] if row.name in quick else [pytest.mark.nightly if row.slow else pytest.mark.slow] for row in which]
    cases = [pytest.param(row, marks=mark, id=row.name) for row, mark in zip(which, marks, strict=True)]
    return pytest.mark.parametrize("row", cases)
