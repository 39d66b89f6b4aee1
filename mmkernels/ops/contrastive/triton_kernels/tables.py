"""Which tiles a device gets: tables.json, by architecture, kernel and bits of a number."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from mmkernels.triton_launch import entries
from mmkernels.user_tiles import cached

TABLE = Path(__file__).with_name("tables.json")


class Tile(NamedTuple):
    """Rows and columns of what a program writes; `depth`: what a product sums at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@cached
def tile(arch: str, kernel: str, dtype: torch.dtype) -> Tile:
    """The tile of "statistics", "slopes" or "gradient"; it depends on no size, so that bits do not either."""
    return Tile(**entries("contrastive", TABLE, arch)[kernel][f"{dtype.itemsize * 8} bit"])
