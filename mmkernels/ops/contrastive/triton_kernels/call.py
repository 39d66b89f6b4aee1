"""A call as the parameters of Triton kernels: tuples of tensors, strides and sizes. What is absent is None, which the
compiler knows, so that a kernel has no code for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmkernels.ops.contrastive.triton_kernels.tables import Tile


class Embeddings(NamedTuple):
    """(rows, dim) with a unit last stride, or one feature."""

    data: Tensor
    row: int
    dim: int


class Targets(NamedTuple):
    """The column of every row, or a matrix of bytes, or neither: the diagonal."""

    of_row: Tensor | None
    of_row_step: int
    matrix: Tensor | None
    matrix_row: int
    matrix_column: int


class Band(NamedTuple):
    """Rows from `first` on in `row_tiles` tiles, against all columns in `column_tiles`; `rows`, `columns`: of the call.

    `height` and `width` are the sizes of the band's tiles together: what lies between kernels has no ragged edge.
    """

    first: int
    row_tiles: int
    column_tiles: int
    height: int
    width: int
    rows: int
    columns: int
    tiles_before: int
    begins: int
    ends: int
    """1 for the first and for the last band."""

    @property
    def present(self) -> int:
        """Rows of the band that exist."""
        return min(self.rows - self.first, self.height)


def embeddings(tensor: Tensor) -> Embeddings:
    """A tensor as a kernel takes it."""
    return Embeddings(tensor, tensor.stride(0), tensor.shape[1])


def described(targets: Tensor | None) -> Targets:
    """The positives as a kernel takes them."""
    if targets is None:
        return Targets(None, 0, None, 0, 0)
    if targets.dtype == torch.bool:
        return Targets(None, 0, targets.view(torch.uint8), *targets.stride())
    return Targets(targets, targets.stride(0), None, 0, 0)


def bands(rows: int, columns: int, tile: Tile, pairs: int) -> Iterator[Band]:
    """As many rows of tiles each as have so many pairs with the columns, and one at least."""
    column_tiles, row_tiles = -(-columns // tile.columns), -(-rows // tile.rows)
    width = column_tiles * tile.columns
    tallest = min(max(1, pairs // width // tile.rows), row_tiles)
    for before in range(0, row_tiles, tallest):
        own = min(tallest, row_tiles - before)
        yield Band(
            before * tile.rows, own, column_tiles, own * tile.rows, width, rows, columns, before * column_tiles,
            int(before == 0), int(before + own == row_tiles),
        )  # fmt: skip
