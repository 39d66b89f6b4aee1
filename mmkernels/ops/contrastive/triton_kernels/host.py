"""Launches the Triton kernels of contrastive_loss: memory between them, bands, tiles; reads no value of a tensor.

`statistics`, `gradients` and `sigmoid` take the name of an architecture of `tables`, and what the entries of the C++
libraries take (`native_call.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkernels.ops.contrastive.triton_kernels import call as calls
from mmkernels.ops.contrastive.triton_kernels import tables
from mmkernels.ops.contrastive.triton_kernels.call import Band
from mmkernels.ops.contrastive.triton_kernels.gradient import contrastive_gradient
from mmkernels.ops.contrastive.triton_kernels.slopes import (
    contrastive_losses,
    contrastive_power,
    contrastive_sigmoid_slopes,
    contrastive_softmax_slopes,
    contrastive_sums,
)
from mmkernels.ops.contrastive.triton_kernels.statistics import NUMBERS, contrastive_merge, contrastive_statistics
from mmkernels.triton_launch import device_of, options

__all__ = ["device_of", "gradients", "sigmoid", "statistics"]

BAND_PAIRS = 1 << 25
"""Pairs of a band at most, unless one row of tiles has more: 64 MiB of 16-bit slopes."""
BLOCK = 256
"""Numbers of a program of the small kernels."""
FP16_TOP = 12
"""Six of the numbers that make a slope still fit into fp16 where the largest is below 2^13."""


def statistics(
    arch: str, image: Tensor, text: Tensor, scale: Tensor, targets: Tensor | None, totals: bool, row_stats: Tensor,
    row_terms: Tensor, column_stats: Tensor, column_terms: Tensor,
) -> None:  # fmt: skip
    """Of the softmax kind: (2, n) maximum and log of the sum, (1 or 2, n) sums over positives and over all."""
    tile = tables.tile(arch, "statistics", image.dtype)
    operands = calls.embeddings(image), calls.embeddings(text), calls.described(targets), scale
    small = options(arch, 4, 1) | {"BLOCK": BLOCK}
    of_rows = *row_stats, row_terms[0], row_terms[1] if totals else None
    of_columns = *column_stats, column_terms[0], column_terms[1] if totals else None
    for band in calls.bands(len(image), len(text), tile, BAND_PAIRS):
        if band.begins:  # the largest
            row_partial = _floats(image, band.column_tiles * NUMBERS.value * band.height)
            column_partial = _floats(image, band.row_tiles * NUMBERS.value * band.width)
        contrastive_statistics[(band.row_tiles * band.column_tiles,)](
            row_partial, column_partial, *operands, band, TOTALS=totals, **_constants(arch, tile)
        )
        contrastive_merge[(-(-band.present // BLOCK),)](
            *of_rows, row_partial, band.first, band.present, band.height, band.column_tiles, 1, 1, **small
        )
        contrastive_merge[(-(-band.columns // BLOCK),)](
            *of_columns, column_partial, 0, band.columns, band.width, band.row_tiles, band.begins, band.ends, **small
        )


def gradients(
    arch: str, image: Tensor, text: Tensor, scale: Tensor, targets: Tensor | None, levels: bool, row_side: Tensor,
    column_side: Tensor, of_image: Tensor | None, of_text: Tensor | None, sums: Tensor | None,
) -> None:  # fmt: skip
    """Gradients of the softmax kind from sides (5, n); sums: of dx * dot product and of dx."""
    if 0 in (len(image), len(text)):
        return
    sweep = Sweep(arch, image, text, scale, of_image, of_text, sums)
    sweep.find_power(row_side[2:], column_side[2:])
    operands = calls.embeddings(image), calls.embeddings(text), calls.described(targets), scale
    for band in sweep.bands:
        contrastive_softmax_slopes[(band.row_tiles * band.column_tiles,)](
            sweep.slopes, sweep.tile_sums, sweep.power, *operands, row_side, column_side, band, LEVELS=levels,
            **_constants(arch, sweep.tile),
        )  # fmt: skip
        sweep.add(band)
    sweep.finish()


def sigmoid(
    arch: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, targets: Tensor | None,
    label_smoothing: float, row_grad: Tensor | None, per_row: Tensor | None, of_image: Tensor | None,
    of_text: Tensor | None, sums: Tensor | None,
) -> None:  # fmt: skip
    """Losses of rows (1, n) and gradients of the sigmoid kind from those of the rows (1, n), either or both."""
    if 0 in (len(image), len(text)):
        return
    sweep = Sweep(arch, image, text, scale, of_image, of_text, sums)
    if row_grad is not None:
        sweep.find_power(row_grad, None)
    losses = None if per_row is None else _floats(image, sweep.bands[0].column_tiles * sweep.bands[0].height)
    operands = calls.embeddings(image), calls.embeddings(text), calls.described(targets), scale, bias, row_grad
    for band in sweep.bands:
        contrastive_sigmoid_slopes[(band.row_tiles * band.column_tiles,)](
            sweep.slopes, sweep.tile_sums, losses, sweep.power, *operands, 0.5 * label_smoothing, band,
            SMOOTHED=label_smoothing != 0.0, **_constants(arch, sweep.tile),
        )  # fmt: skip
        if per_row is not None:
            contrastive_losses[(-(-band.present // BLOCK),)](
                per_row[0, band.first :], losses, band.present, band.height, band.column_tiles, BLOCK=BLOCK,
                **options(arch, 4, 1),
            )  # fmt: skip
        sweep.add(band)
    sweep.finish()


class Sweep:
    """What a sweep over bands of slopes leaves: gradients of the embeddings, and sums."""

    def __init__(
        self, arch: str, image: Tensor, text: Tensor, scale: Tensor, of_image: Tensor | None, of_text: Tensor | None,
        sums: Tensor | None,
    ) -> None:  # fmt: skip
        self.arch, self.image, self.text, self.scale = arch, image, text, scale
        self.of_image, self.of_text, self.sums = of_image, of_text, sums
        self.tile = tables.tile(arch, "slopes", image.dtype)
        self.bands = list(calls.bands(len(image), len(text), self.tile, BAND_PAIRS))
        largest, last = self.bands[0], self.bands[-1]
        self.tiles = last.tiles_before + last.row_tiles * last.column_tiles
        self.tile_sums = None if sums is None else image.new_empty(2 * self.tiles, dtype=torch.float64)
        self.slopes: Tensor | None = None
        self.power: Tensor | None = None
        self.carry: Tensor | None = None
        if of_image is not None or of_text is not None:
            self.slopes = image.new_empty((largest.height, largest.width))
            self.power = _floats(image, 2)
        if of_text is not None and len(self.bands) > 1:
            self.carry = of_text if of_text.dtype == torch.float32 else _floats(text, *text.shape)

    def find_power(self, row_numbers: Tensor, column_numbers: Tensor | None) -> None:
        """Of the numbers that slopes are made of; before the first band."""
        if self.power is None:
            return
        columns = 0 if column_numbers is None else column_numbers.numel()
        contrastive_power[(1,)](
            self.power, row_numbers, row_numbers.numel(), column_numbers, columns,
            TOP=FP16_TOP if self.image.dtype == torch.float16 else 0, BLOCK=4 * BLOCK,
            **options(self.arch, 4, 1),
        )  # fmt: skip

    def add(self, band: Band) -> None:
        """The gradients of a band, whose slopes are there."""
        if self.slopes is None:
            return
        if self.of_image is not None:
            rows = self.of_image[band.first :]
            self._product(rows, None, band.width, 1, self.text, band.present, band.columns, 1, 1)
        if self.of_text is not None:
            images = self.image[band.first :]
            self._product(
                self.of_text, self.carry, 1, band.width, images, band.columns, band.present, band.begins, band.ends
            )

    def _product(
        self, grad: Tensor, carry: Tensor | None, step: int, along: int, operand: Tensor, count: int, depth: int,
        begins: int, ends: int,
    ) -> None:  # fmt: skip
        tile = tables.tile(self.arch, "gradient", self.image.dtype)
        programs = -(-count // tile.rows) * -(-operand.shape[1] // tile.columns)
        if programs == 0:  # no features
            return
        contrastive_gradient[(programs,)](
            grad, carry, self.slopes, step, along, calls.embeddings(operand), self.scale, self.power, count, depth,
            begins, ends, **_constants(self.arch, tile),
        )  # fmt: skip

    def finish(self) -> None:
        """After the last band."""
        if self.sums is not None:
            contrastive_sums[(1,)](self.sums, self.tile_sums, self.tiles, BLOCK=BLOCK, **options(self.arch, 4, 1))


def _floats(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _constants(arch: str, tile: tables.Tile) -> dict[str, Any]:
    sizes = {"HEIGHT": tile.rows, "WIDTH": tile.columns, "DEPTH": tile.depth}
    return sizes | options(arch, tile.warps, tile.stages)
