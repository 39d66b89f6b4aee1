"""Which tiles a device gets: tables.json, by architecture, kernel and bits of a number; no call's sizes choose."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

TABLE = Path(__file__).with_name("tables.json")


class Tile(NamedTuple):
    """`height` and `width` of what a program owns, `depth` of a step of its sums."""

    height: int
    width: int
    depth: int
    warps: int
    stages: int


@functools.cache
def table() -> dict[str, Any]:
    """The file."""
    return json.loads(TABLE.read_text())


@functools.cache
def tile(arch: str, kernel: str, dtype: torch.dtype) -> Tile:
    """Of "forward", "grad_source", "grad_weight", or of "rows": the kernels that sum along or over rows."""
    entries = table()[arch]
    if isinstance(entries, str):  # as another architecture
        return tile(entries, kernel, dtype)
    return Tile(**entries[kernel][f"{dtype.itemsize * 8} bit"])
