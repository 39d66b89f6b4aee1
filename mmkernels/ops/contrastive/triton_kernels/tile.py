"""A tile of dot products of image and text, and which of its pairs are positives."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def places(band, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Row and column of the program's tile, and their indices. Programs in a row share the tile's texts."""
    row_tile, column_tile = tl.program_id(0) % band.row_tiles, tl.program_id(0) // band.row_tiles
    row = (band.first + row_tile * HEIGHT + tl.arange(0, HEIGHT)).to(tl.int64)
    column = (column_tile * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
    return row_tile, column_tile, row, column


@triton.jit
def dot_products(
    image, text, row, column, band, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr
):  # fmt: skip
    """image text^T in fp32, a chain over the features; 0 outside."""
    total = tl.zeros((HEIGHT, WIDTH), tl.float32)
    row_exists, column_exists = (row < band.rows)[:, None], (column < band.columns)[:, None]
    for first in range(0, image.dim, DEPTH):
        feature = first + tl.arange(0, DEPTH)[None, :]
        images = tl.load(image.data + row[:, None] * image.row + feature, row_exists & (feature < image.dim), 0.0)
        texts = tl.load(text.data + column[:, None] * text.row + feature, column_exists & (feature < text.dim), 0.0)
        total = tl.dot(images, tl.trans(texts), total, input_precision="ieee")
    return total


@triton.jit
def inside(row, column, band):
    """Which pairs exist."""
    return (row < band.rows)[:, None] & (column < band.columns)[None, :]


@triton.jit
def positives(targets, row, column, band):
    """Which pairs are positives; an index that is no column is none."""
    exists = inside(row, column, band)
    if targets.matrix is not None:
        at = targets.matrix + row[:, None] * targets.matrix_row + column[None, :] * targets.matrix_column
        found = tl.load(at, mask=exists, other=0) != 0
    elif targets.of_row is not None:
        index = tl.load(targets.of_row + row * targets.of_row_step, mask=row < band.rows, other=-1)
        found = (index[:, None] == column[None, :]) & exists
    else:
        found = (row[:, None] == column[None, :]) & exists
    return found
