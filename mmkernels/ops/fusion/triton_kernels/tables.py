"""Which tiles a device gets: tables.json, by architecture, kernel and bits of a number; no call's sizes choose."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from mmkernels.triton_launch import entries
from mmkernels.user_tiles import cached

TABLE = Path(__file__).with_name("tables.json")


class Tile(NamedTuple):
    """`height` and `width` of what a program owns, `depth` of a step of its sums."""

    height: int
    width: int
    depth: int
    warps: int
    stages: int


@cached
def tile(arch: str, kernel: str, dtype: torch.dtype) -> Tile:
    """Of "forward", "grad_source", "grad_weight", or of "rows": the kernels that sum along or over rows."""
    return Tile(**entries("fusion", TABLE, arch)[kernel][f"{dtype.itemsize * 8} bit"])
