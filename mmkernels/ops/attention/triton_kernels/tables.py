"""Which tiles a device gets: tables.json, by architecture, op, bytes of a number, head dim and number of rows.

The number of keys of a block and of a chunk decide a row's bits: they depend on architecture, op, dtype and head dim
alone. Height, warps and stages may be tuned for many and for few rows.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

TABLE = Path(__file__).with_name("tables.json")


class Tile(NamedTuple):
    """`height`: query rows of a tile; `keys`: of a block; `chunk`: keys of a chain of sums of the forward."""

    height: int
    keys: int
    chunk: int
    warps: int
    stages: int


@functools.cache
def table() -> dict[str, Any]:
    """The file."""
    return json.loads(TABLE.read_text())


def architectures() -> list[str]:
    """Those that have entries of their own."""
    return [name for name in table() if name != "interpreter"]


def known(arch: str) -> str:
    """The architecture whose entries serve one: itself, or the one that asks least of its kind."""
    if arch in table():
        return arch
    if not arch.startswith("sm_"):
        return "gfx90a"
    number = int(arch.removeprefix("sm_"))
    # What has the shared memory of sm_80, and what has the least of all.
    return "sm_80" if number == 87 else "sm_90" if 90 < number < 100 else "sm_100" if 100 < number < 120 else "sm_120"


@functools.cache
def tile(arch: str, op: str, dtype: torch.dtype, width: int, few: bool) -> Tile:
    """The tile for head dims of up to `width`, a power of two from 16 on."""
    entry = table()[arch][op][f"{dtype.itemsize * 8} bit"][str(max(width, 32))]
    sizes = entry["few" if few and "few" in entry else "many"]
    return Tile(sizes["height"], entry["keys"], entry["chunk"], sizes["warps"], sizes["stages"])
