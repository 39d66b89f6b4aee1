"""What every launch of a concat_fusion call has in common, and the sums over the weight that both directions want."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels.ops.fusion.triton_kernels import tables
from mmkernels.ops.fusion.triton_kernels.statistics import fusion_weight_sums
from mmkernels.triton_launch import Device, options, precision


class Launcher:
    """What every launch of a call on a device has in common."""

    def __init__(self, device: Device, weight: Tensor) -> None:
        self.device, self.weight = device, weight

    def tile(self, kernel: str) -> tables.Tile:
        """The kernel's in the table."""
        return tables.tile(self.device.arch, kernel, self.weight.dtype)

    def options(self, tile: tables.Tile) -> dict[str, Any]:
        """The compiler's."""
        return options(self.device.arch, tile.warps, tile.stages)

    def constants(self, tile: tables.Tile) -> dict[str, Any]:
        """The constants of a kernel that multiplies, and the compiler's options."""
        sizes = {"HEIGHT": tile.height, "WIDTH": tile.width, "DEPTH": tile.depth}
        return sizes | {"PRECISION": precision(self.weight.dtype, self.device.arch)} | self.options(tile)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Scratch."""
        return self.weight.new_empty(shape, dtype=dtype)

    def weight_sums(
        self, bias: Tensor | None, norm_weight: Tensor | None, norm_bias: Tensor | None, with_level: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """(bias + W norm_bias, W norm_weight), each (out,); None where nothing is added, or it is not wanted."""
        if norm_bias is None and not with_level:
            return bias, None
        outs, features = self.weight.shape
        constant = None if norm_bias is None else self.empty(outs)
        level = self.empty(outs) if with_level else None
        tile = self.tile("rows")
        fusion_weight_sums[(tiles(outs, tile.height),)](
            constant, level, self.weight, self.weight.stride(0), bias, norm_bias, norm_weight, outs, features,
            HEIGHT=tile.height, DEPTH=tile.depth, **self.options(tile),
        )  # fmt: skip
        return bias if constant is None else constant, level


def tiles(*sizes: int) -> int:
    """How many tiles cover each of (size, tile, size, tile, ...), multiplied."""
    return math.prod(-(-size // tile) for size, tile in zip(sizes[::2], sizes[1::2], strict=True))


def features_before(inputs: Sequence[Tensor]) -> list[int]:
    """Each source's first feature in the weight."""
    widths = [x.shape[-1] for x in inputs]
    return [sum(widths[:i]) for i in range(len(widths))]


def is_shared(x: Tensor, rows: torch.Size) -> bool:
    """Whether a source has fewer rows than the output."""
    return math.prod(x.shape[:-1]) != math.prod(rows)
