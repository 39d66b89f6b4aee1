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


def compiled_rows(*which: Row) -> Any:
    """Those that compile; all but a sample in nightly runs only."""
    return pytest.mark.parametrize("row", [
        pytest.param(row, marks=pytest.mark.nightly if row.slow else pytest.mark.slow, id=row.name)
        for row in which if row.compiles
    ])  # fmt: skip
