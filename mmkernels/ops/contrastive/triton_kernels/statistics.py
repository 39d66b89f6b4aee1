"""Statistics of rows and columns of x = scale image text^T, for the softmax kind: maximum, log of the sum of
exp(x - maximum), sum over the positives, sum over all.

Both directions come from one tile of products; a logit takes two exponentials, one against its row's maximum in the
tile and one against its column's. What a tile finds goes to device memory, as four rows of numbers, and is put together
in the order of the tiles: online softmax (Milakov and Gimelshein, 2018).
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.contrastive.triton_kernels.tile import dot_products, inside, places, positives
from mmkernels.triton_blocks import LOG2E, merge_factors, safe_shift

NUMBERS = tl.constexpr(4)
"""Of a row or column in a tile."""


@triton.jit
def store_direction(partial, length, logits, positive, exists, AXIS: tl.constexpr, TOTALS: tl.constexpr):
    """What a tile's rows (AXIS 1) or columns (0) have in it, to four rows of `length` numbers."""
    top = tl.max(logits, AXIS)
    weights = tl.exp2((logits - tl.expand_dims(safe_shift(top), AXIS)) * LOG2E)
    at = partial + tl.arange(0, top.shape[0])
    tl.store(at, top)
    tl.store(at + length, tl.sum(weights, AXIS))
    tl.store(at + 2 * length, tl.sum(tl.where(positive, logits, 0.0), AXIS))
    if TOTALS:
        tl.store(at + 3 * length, tl.sum(tl.where(exists, logits, 0.0), AXIS))


@triton.jit(do_not_specialize=("band",))
def contrastive_statistics(
    row_partial, column_partial, image, text, targets, scale, band,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, TOTALS: tl.constexpr,
):  # fmt: skip
    """One tile of a band."""
    row_tile, column_tile, row, column = places(band, HEIGHT, WIDTH)
    dots = dot_products(image, text, row, column, band, HEIGHT, WIDTH, DEPTH)
    exists, positive = inside(row, column, band), positives(targets, row, column, band)
    logits = tl.where(exists, dots * tl.load(scale), float("-inf"))
    height, width = tl.cast(band.height, tl.int64), tl.cast(band.width, tl.int64)
    of_rows = row_partial + column_tile * NUMBERS * height + row_tile * HEIGHT
    store_direction(of_rows, height, logits, positive, exists, 1, TOTALS)
    of_columns = column_partial + row_tile * NUMBERS * width + column_tile * WIDTH
    store_direction(of_columns, width, logits, positive, exists, 0, TOTALS)


@triton.jit(do_not_specialize=("first", "count", "length", "tiles", "begins", "ends"))
def contrastive_merge(
    maximum, log_sum, hit, total, partial, first, count, length, tiles, begins, ends, BLOCK: tl.constexpr
):
    """`count` rows or columns from `first` on, of `tiles` tiles whose partial numbers have rows of `length`.

    begins: nothing is carried to here; ends: sums become their logarithms.
    """
    local = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = local < count
    carried, at = local < tl.where(begins == 1, 0, count), first + local
    top = tl.load(maximum + at, mask=carried, other=float("-inf"))
    sums = tl.load(log_sum + at, mask=carried, other=0.0)
    hits = tl.load(hit + at, mask=carried, other=0.0).to(tl.float64)
    if total is not None:
        totals = tl.load(total + at, mask=carried, other=0.0).to(tl.float64)
    for tile in range(tiles):
        of_tile = partial + tl.cast(tile, tl.int64) * NUMBERS * length + local
        tile_top = tl.load(of_tile, mask=exists, other=float("-inf"))
        top, factor, tile_factor = merge_factors(top, tile_top, LOG2E)
        tile_sums = tl.load(of_tile + tl.cast(length, tl.int64), mask=exists, other=0.0)
        sums = tl.fma(sums, factor, tile_sums * tile_factor)
        hits += tl.load(of_tile + 2 * tl.cast(length, tl.int64), mask=exists, other=0.0)
        if total is not None:
            totals += tl.load(of_tile + 3 * tl.cast(length, tl.int64), mask=exists, other=0.0)
    tl.store(maximum + at, top, mask=exists)
    tl.store(log_sum + at, tl.where(ends == 1, tl.log(sums), sums), mask=exists)
    tl.store(hit + at, hits.to(tl.float32), mask=exists)
    if total is not None:
        tl.store(total + at, totals.to(tl.float32), mask=exists)
