"""timm and open_clip on mmkernels: `make test-vision` installs them beside the environment, and test-all runs it."""

from __future__ import annotations

import pytest

from tests.integrations import checks, vision_rows
from tests.integrations.cases import compiled_rows, rows
from tests.integrations.torchvision_ops import declare_missing_ops


def needed(row):
    library = "timm" if row in vision_rows.TIMM else "open_clip"
    declare_missing_ops()
    pytest.importorskip(library, reason=f"{library} is not installed")


ROWS = vision_rows.TIMM + vision_rows.OPEN_CLIP


@rows(*ROWS)
def test_values_and_gradients(row):
    needed(row)
    checks.check_values(row)


@rows(*ROWS)
def test_autocast(row):
    needed(row)
    checks.check_autocast(row)


@compiled_rows(*ROWS)
def test_compiled_in_one_graph(row):
    needed(row)
    checks.check_compiled(row)


@compiled_rows(*ROWS)
def test_gradients_of_one_graph(row):
    needed(row)
    checks.check_compiled_gradients(row)
