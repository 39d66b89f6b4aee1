"""The file of figures: one line a kernel, of every entry of the tables, and one line a hot loop."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmkernels.files import write_atomically

COLUMNS = ("op", "arch", "dtype", "dim", "call", "kernel", "tile", "registers", "spilled", "shared", "matrix")
PLACE = COLUMNS[:7]
Row = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """{"triton", "kernels", "loops"}; empty where there is no file."""
    if not path.exists():
        return {"triton": None, "kernels": [], "loops": []}
    found = json.loads(path.read_text())
    return found | {"kernels": [dict(zip(COLUMNS, row, strict=True)) for row in found["kernels"]]}


def write(path: Path, triton: str, kernels: Iterable[Row], loops: Iterable[Row]) -> None:
    """In place of the figures that are there."""
    lines = [json.dumps([row[name] for name in COLUMNS]) for row in kernels]
    parts = [f'"triton": {json.dumps(triton)}', f'"columns": {json.dumps(COLUMNS)}']
    parts.append('"kernels": [\n' + ",\n".join(lines) + "\n]")
    parts.append('"loops": [\n' + ",\n".join(json.dumps(row) for row in loops) + "\n]")
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    write_atomically(path, text.encode())


def laid_over(old: Iterable[Row], new: Iterable[Row], names: Iterable[str]) -> list[Row]:
    """Newer rows in place of all older ones that agree in these columns, sorted."""
    names, new = tuple(names), list(new)
    replaced = {tuple(row[name] for name in names) for row in new}
    left = [row for row in old if tuple(row[name] for name in names) not in replaced]
    return sorted([*left, *new], key=lambda row: json.dumps(row, sort_keys=True))
