"""timm and open_clip on mmkernels. CI has neither: they need torchvision, built for other releases of torch."""

from __future__ import annotations

import pytest

from tests.integrations import checks, vision_rows
from tests.integrations.cases import compiled_rows, rows


def needed(row):
    library = "timm" if row in vision_rows.TIMM else "open_clip"
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
