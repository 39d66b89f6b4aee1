"""What Triton kernels of every op share: Philox, the online softmax, products that keep hidden pairs clean.

Imports triton, so only a backend that has found it imports this module. The semantics are those of csrc/core.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


# ---- operands ----


@triton.jit
def chosen(values, index):
    """`values[index]` of a tuple of kernel parameters, by selection: the code that uses it stands there once."""
    result = values[0]
    for i in tl.static_range(1, len(values)):
        result = tl.where(index == i, values[i], result)
    return result


@triton.jit
def nearest(index, size):
    """The index itself, or the nearest one inside an axis: what users index by never leaves a tensor."""
    return tl.minimum(tl.maximum(index, 0), tl.maximum(size, 1) - 1)


@triton.jit
def load_rows(data, row, stride, exists, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Rows of WIDTH numbers as a tile of PADDED columns, 0 outside; `exists` None: every row does."""
    column = tl.arange(0, PADDED)
    at = data + row.to(tl.int64)[:, None] * stride + column[None, :]
    narrow = (column < WIDTH)[None, :]
    if exists is None:
        if WIDTH == PADDED:
            tile = tl.load(at)
        else:
            tile = tl.load(at, mask=narrow, other=0.0)
    else:
        if WIDTH == PADDED:
            tile = tl.load(at, mask=exists[:, None], other=0.0)
        else:
            tile = tl.load(at, mask=exists[:, None] & narrow, other=0.0)
    return tile


@triton.jit
def store_rows(data, row, stride, exists, tile, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The inverse of `load_rows`, rounded to the type of `data`."""
    column = tl.arange(0, PADDED)
    at = data + row.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(at, tile.to(data.dtype.element_ty), mask=exists[:, None] & (column < WIDTH)[None, :])


# ---- products ----


@triton.jit
def isolated_product(
    weights, visible, rows, total, data, stride, count,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, LOOKS_FIRST: tl.constexpr = False,
):  # fmt: skip
    """`total + weights @ rows`, where a number of `rows` that is not finite reaches only those whose pair is visible.

    weights: 0 where the pair is hidden; visible: the same shape. rows: the first `count` at `data`, and zeros. A tile
    of finite rows pays for one vote; in others the rows are read again, one by one: the product keeps its registers.

    LOOKS_FIRST: the numbers are looked at as they were loaded. Else the compiler does it in the layout of the product's
    operand, which then stands in registers whole; it does not carry a reduction there.
    """
    finite = tl.abs(rows.to(tl.float32)) < float("inf")
    whole = finite.to(tl.int32)
    if LOOKS_FIRST:
        whole = tl.min(whole, 1)
        finite = finite | (whole > 0)[:, None]
    total = tl.dot(weights.to(rows.dtype), tl.where(finite, rows, 0.0).to(rows.dtype), total, input_precision=PRECISION)
    if tl.min(whole) == 0:
        place = tl.arange(0, rows.shape[0])[None, :]
        column = tl.arange(0, rows.shape[1])
        for j in range(tl.minimum(count, rows.shape[0])):
            row = tl.load(data + column, mask=column < WIDTH, other=0.0).to(tl.float32)
            data += stride
            poison = tl.where(tl.abs(row) < float("inf"), 0, 1)
            if tl.max(poison) > 0:
                weight = tl.sum(tl.where(place == j, weights, 0.0), 1)
                sees = tl.max(((place == j) & visible).to(tl.int32), 1)
                total += tl.where(sees[:, None] * poison[None, :] > 0, weight[:, None] * row[None, :], 0.0)
    return total


# ---- online softmax ----


@triton.jit
def safe_shift(row_max):
    """The shift of exponents: a row that has seen no key must not compute -inf + inf."""
    return tl.where(row_max == float("-inf"), 0.0, row_max)


@triton.jit
def merge_factors(max_a, max_b, UNIT: tl.constexpr):
    """The maximum of two, and what brings the sums of either to it."""
    row_max = tl.maximum(max_a, max_b)
    shift = safe_shift(row_max)
    return row_max, tl.exp2((max_a - shift) * UNIT), tl.exp2((max_b - shift) * UNIT)


@triton.jit
def merge(max_a, sum_a, acc_a, max_b, sum_b, acc_b, UNIT: tl.constexpr):
    """The states (maximum, sum, accumulator) of two disjoint sets of keys as one; UNIT: of the maxima, in log2."""
    row_max, factor_a, factor_b = merge_factors(max_a, max_b, UNIT)
    row_sum = tl.fma(sum_a, factor_a, sum_b * factor_b)
    return row_max, row_sum, tl.fma(acc_a, factor_a[:, None], acc_b * factor_b[:, None])


# ---- Philox4x32-10 (Salmon et al., SC 2011), as csrc/core/philox.h ----


@triton.jit
def philox4x32(counter0, counter1, counter2, counter3, key0, key1):
    """Four random words of uint32 counters that broadcast against each other."""
    multiplier0 = tl.full((), 0xD2511F53, tl.uint32)
    multiplier1 = tl.full((), 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(counter0, multiplier0), counter0 * multiplier0
        high1, low1 = tl.umulhi(counter2, multiplier1), counter2 * multiplier1
        counter0, counter1, counter2, counter3 = high1 ^ counter1 ^ key0, low1, high0 ^ counter3 ^ key1, low0
        key0 += tl.full((), 0x9E3779B9, tl.uint32)
        key1 += tl.full((), 0xBB67AE85, tl.uint32)
    return counter0, counter1, counter2, counter3


@triton.jit
def words_of_fours(batch, head, row, first, key0, key1, KEYS: tl.constexpr):
    """`philox_words` from a multiple of 4 on: four neighbouring keys share a counter."""
    group, row = tl.broadcast((first // 4 + tl.arange(0, KEYS // 4)).to(tl.uint32)[None, :], row)
    word0, word1, word2, word3 = philox4x32(group, row, head, batch, key0, key1)
    return tl.interleave(tl.interleave(word0, word2), tl.interleave(word1, word3))


@triton.jit
def words_one_by_one(batch, head, row, first, key0, key1, KEYS: tl.constexpr):
    """`philox_words` from anywhere on: a counter for each pair."""
    key = (first + tl.arange(0, KEYS))[None, :]
    group, row = tl.broadcast((key // 4).to(tl.uint32), row)
    word0, word1, word2, word3 = philox4x32(group, row, head, batch, key0, key1)
    place = key % 4
    return tl.where(place < 2, tl.where(place == 0, word0, word1), tl.where(place == 2, word2, word3))


@triton.jit
def philox_words(batch, head, row, first, key0, key1, KEYS: tl.constexpr):
    """The word of each pair of rows and the keys [first, first + KEYS).

    batch, head, row: uint32, of which row has shape (M, 1), and head too if it is no scalar.
    """
    if first % 4 == 0:
        words = words_of_fours(batch, head, row, first, key0, key1, KEYS)
    else:
        words = words_one_by_one(batch, head, row, first, key0, key1, KEYS)
    return words
