"""Every row of the table of models, on mmkernels and on the library's own eager attention."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")

from tests.integrations import checks
from tests.integrations.cases import compiled_rows, rows
from tests.integrations.table import ROWS


@rows(*ROWS)
def test_values_and_gradients(row):
    checks.check_values(row)


@rows(*[row for row in ROWS if row.patched and row.drops])
def test_dropout(row):
    checks.check_dropout(row)


@rows(*ROWS, sample=False)
def test_autocast(row):
    checks.check_autocast(row)


@compiled_rows(*ROWS)
def test_compiled_in_one_graph(row):
    checks.check_compiled(row)


@compiled_rows(*ROWS, quick=("BERT", "nn.MultiheadAttention"))
def test_gradients_of_one_graph(row):
    checks.check_compiled_gradients(row)
