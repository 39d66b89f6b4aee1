"""Slopes d loss / d x of the tiles of a band, for the products that make gradients of them, and what is summed on the
way: dx * dot product and dx, of which the gradients of scale and bias are made, and the losses of the sigmoid kind.

    softmax:  dx = grad exp(x - maximum - log_sum) of the row + the same of the column - hits where positive - levels
    sigmoid:  y = -x where positive, else x; loss = softplus(y) - smoothing / 2 y
              dx = +-(sigmoid(y) - smoothing / 2) grad

Dot products are computed again, with the bits of the forward. Slopes are multiplied by a power of two before they are
rounded: those of a mean over many fp16 pairs would be 0 without it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.contrastive.triton_kernels.tile import dot_products, inside, places, positives
from mmkernels.triton_blocks import LOG2E


@triton.jit
def side_number(side, number, count, index, axis: tl.constexpr):
    """A number of a tile's rows or columns, of a side's five rows of `count`."""
    found = tl.load(side + tl.cast(number, tl.int64) * count + index, mask=index < count, other=0.0)
    return tl.expand_dims(found, axis)


@triton.jit
def probabilities(logits, side, count, index, axis: tl.constexpr):
    """grad * softmax(x) of one direction."""
    maximum, log_sum = side_number(side, 0, count, index, axis), side_number(side, 1, count, index, axis)
    return tl.exp2((logits - maximum - log_sum) * LOG2E) * side_number(side, 2, count, index, axis)


@triton.jit
def leave(slopes, sums, power, dx, dots, band, row_tile, column_tile, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """The tile's slopes and its two sums, to where they are wanted."""
    if sums is not None:
        at = sums + 2 * (tl.cast(band.tiles_before, tl.int64) + tl.program_id(0))
        tl.store(at, tl.sum(tl.sum(dx * dots, 1).to(tl.float64), 0))
        tl.store(at + 1, tl.sum(tl.sum(dx, 1).to(tl.float64), 0))
    if slopes is not None:
        row = (row_tile * HEIGHT + tl.arange(0, HEIGHT)).to(tl.int64)
        column = column_tile * WIDTH + tl.arange(0, WIDTH)
        at = slopes + row[:, None] * band.width + column[None, :]
        tl.store(at, (dx * tl.load(power)).to(slopes.dtype.element_ty))


@triton.jit(do_not_specialize=("band",))
def contrastive_softmax_slopes(
    slopes, sums, power, image, text, targets, scale, row_side, column_side, band,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """One tile of a band."""
    row_tile, column_tile, row, column = places(band, HEIGHT, WIDTH)
    dots = dot_products(image, text, row, column, band, HEIGHT, WIDTH, DEPTH)
    logits = dots * tl.load(scale)
    dx = probabilities(logits, row_side, band.rows, row, 1)
    dx += probabilities(logits, column_side, band.columns, column, 0)
    hit = side_number(row_side, 3, band.rows, row, 1) + side_number(column_side, 3, band.columns, column, 0)
    dx -= tl.where(positives(targets, row, column, band), hit, 0.0)
    if LEVELS:  # last: p - 1 of a confident pair is exact
        dx -= side_number(row_side, 4, band.rows, row, 1) + side_number(column_side, 4, band.columns, column, 0)
    dx = tl.where(inside(row, column, band), dx, 0.0)
    leave(slopes, sums, power, dx, dots, band, row_tile, column_tile, HEIGHT, WIDTH)


@triton.jit
def log_one_plus(t):
    """log(1 + t) for t in [0, 1], within 3 ulp: 2 atanh(t / (2 + t)), as csrc/core/softplus.h."""
    s = t / (t + 2.0)
    z = s * s
    p = tl.fma(z, 0.122047015, 0.106971338)
    p = tl.fma(p, z, 0.143103123)
    p = tl.fma(p, z, 0.199993476)
    p = tl.fma(p, z, 0.333333403)
    twice = s + s
    return tl.fma(p * z, twice, twice)


@triton.jit(do_not_specialize=("half", "band"))
def contrastive_sigmoid_slopes(
    slopes, sums, losses, power, image, text, targets, scale, bias, row_grad, half, band,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, SMOOTHED: tl.constexpr,
):  # fmt: skip
    """One tile of a band; half: of the label smoothing."""
    row_tile, column_tile, row, column = places(band, HEIGHT, WIDTH)
    dots = dot_products(image, text, row, column, band, HEIGHT, WIDTH, DEPTH)
    logits = dots * tl.load(scale)
    if bias is not None:
        logits += tl.load(bias)
    positive, exists = positives(targets, row, column, band), inside(row, column, band)
    y = tl.where(positive, -logits, logits)
    small = tl.exp2(-tl.abs(y) * LOG2E)
    if losses is not None:
        terms = tl.maximum(y, 0.0) + log_one_plus(small)
        if SMOOTHED:
            terms -= half * y
        at = losses + column_tile * tl.cast(band.height, tl.int64) + row_tile * HEIGHT + tl.arange(0, HEIGHT)
        tl.store(at, tl.sum(tl.where(exists, terms, 0.0), 1))
    if row_grad is not None:
        grad = tl.load(row_grad + row, mask=row < band.rows, other=0.0)
        dx = tl.where(y >= 0.0, 1.0, small) / (1.0 + small)
        if SMOOTHED:
            dx -= half
        dx *= grad[:, None]
        dx = tl.where(exists, tl.where(positive, -dx, dx), 0.0)
        leave(slopes, sums, power, dx, dots, band, row_tile, column_tile, HEIGHT, WIDTH)


@triton.jit(do_not_specialize=("count", "length", "tiles"))
def contrastive_losses(losses, partial, count, length, tiles, BLOCK: tl.constexpr):
    """The losses of `count` rows of a band, from those of its tiles."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    for tile in range(tiles):
        total += tl.load(partial + tl.cast(tile, tl.int64) * length + row, mask=row < count, other=0.0)
    tl.store(losses + row, total.to(tl.float32), mask=row < count)


@triton.jit(do_not_specialize=("tiles",))
def contrastive_sums(sums, partial, tiles, BLOCK: tl.constexpr):
    """The two sums of all tiles, in one program: each place a chain over every BLOCK-th tile, then these."""
    for which in tl.static_range(2):
        total = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, tiles, BLOCK):
            tile = (first + tl.arange(0, BLOCK)).to(tl.int64)
            total += tl.load(partial + 2 * tile + which, mask=tile < tiles, other=0.0)
        tl.store(sums + which, tl.sum(total, 0))


@triton.jit
def largest(numbers, count, BLOCK: tl.constexpr):
    """Of the magnitudes of `count` numbers, as bits, whose order is the same; a NaN is above all."""
    top = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, count, BLOCK):
        index = (first + tl.arange(0, BLOCK)).to(tl.int64)
        found = tl.load(numbers + index, mask=index < count, other=0.0)
        top = tl.maximum(top, found.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    return tl.max(top, 0)


@triton.jit(do_not_specialize=("rows", "columns"))
def contrastive_power(power, row_numbers, rows, column_numbers, columns, TOP: tl.constexpr, BLOCK: tl.constexpr):
    """The power of two that brings the largest number that slopes are made of to [2^TOP, 2^(TOP + 1)), and its inverse.

    1 where there is none, or one is not finite. One program.
    """
    top = largest(row_numbers, rows, BLOCK)
    if column_numbers is not None:
        top = tl.maximum(top, largest(column_numbers, columns, BLOCK))
    exponent = top >> 23
    usual = (exponent > 0) & (exponent < 255)
    factor = tl.where(usual, tl.minimum(tl.maximum(254 + TOP - exponent, 1), 253), 127)
    tl.store(power, (factor << 23).to(tl.float32, bitcast=True))
    tl.store(power + 1, ((254 - factor) << 23).to(tl.float32, bitcast=True))
