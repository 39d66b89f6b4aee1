"""Which tiles a device gets: tables.json, by architecture, op, bits of a number, head dim and size of the call.

What decides a row's bits is `fixed` for an architecture, op, dtype and head dim: the keys of a block and of a chunk,
and in the key pass the rows of a tile. The other sizes may be tuned for a size of calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from mmkernels.triton_launch import entries
from mmkernels.user_tiles import cached

TABLE = Path(__file__).with_name("tables.json")


class Tile(NamedTuple):
    """`height`: query rows of a tile; `keys`: of a block; `chunk`: keys of a chain of sums of the forward.

    `registers`: see `mmkernels.triton_launch.options`.
    """

    height: int
    keys: int
    chunk: int
    warps: int
    stages: int
    registers: int | None = None


@cached
def tile(arch: str, op: str, dtype: torch.dtype, width: int, size: str) -> Tile:
    """The tile for head dims of up to `width`, a power of two from 16 on.

    size: "many" or "few" rows of a plain call; "general": with bias, dense mask, softcap or dropout.
    """
    entry = entries("attention", TABLE, arch)[op][f"{dtype.itemsize * 8} bit"][str(max(width, 64))]
    return Tile(**entry["fixed"], **entry.get(size, entry["many"]))
