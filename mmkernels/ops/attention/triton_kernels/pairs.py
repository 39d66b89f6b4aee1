"""The pairs of a tile of query rows and a block of keys: where they are, which are visible, what their logits are.

Functions of pairs take rows and keys as tensors that broadcast against each other, (M, 1) and (1, N) or the other way
round, so that kernels that own rows and kernels that own keys share them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from mmkernels.bias import BIAS_DENSE, BIAS_NONE, BIAS_RELATIVE
from mmkernels.triton_blocks import LOG2E, chosen, nearest, philox_words

NONE, DENSE, RELATIVE = tl.constexpr(BIAS_NONE), tl.constexpr(BIAS_DENSE), tl.constexpr(BIAS_RELATIVE)
FAR = tl.constexpr(2147483647)


class Place(NamedTuple):
    """Where a program's tile of rows stands; a tile beyond the last has a sequence of no rows."""

    batch: Any
    head: Any
    tile: Any
    first_q: Any
    len_q: Any
    first_k: Any
    len_k: Any


class Rows(NamedTuple):
    """Query rows of a tile: `head` is a scalar, or as `query` where several heads share the tile."""

    batch: Any
    head: Any
    query: Any
    exists: Any


class Statistics(NamedTuple):
    """What the backward knows of rows: weight = exp(logit - shift) factor, gradient = weight (dP - delta)."""

    shift: Any
    factor: Any
    delta: Any


class Source(NamedTuple):
    """A segment's keys and values, of a place's head and sequence."""

    key_data: Any
    key_row: Any
    value_data: Any
    value_row: Any
    length: Any
    offset: Any
    segment: Any


# ---- places ----


@triton.jit
def sequence_rows(cu, index, total):
    """First row and number of rows of a packed sequence, never outside its tensor."""
    first = tl.minimum(tl.maximum(tl.load(cu + index), 0), total)
    last = tl.minimum(tl.maximum(tl.load(cu + index + 1), 0), total)
    return first, tl.maximum(last - first, 0)


@triton.jit
def find_sequence(cu, batch, total, tile, PER_ROW, HEIGHT: tl.constexpr):
    """The sequence of tile number `tile` of all sequences' tiles, and its number there; `batch` beyond the last."""
    sequence, own, before = batch, tile * 0, tile * 0
    for b in range(batch):
        _, count = sequence_rows(cu, b, total)
        tiles = tl.cdiv(count * PER_ROW, HEIGHT)
        here = (tile >= before) & (tile < before + tiles)
        sequence = tl.where(here, b, sequence)
        own = tl.where(here, tile - before, own)
        before += tiles
    return sequence, own


@triton.jit
def query_place(shape, program, tiles, pack, HEIGHT: tl.constexpr):
    """The place of a program; `pack` heads share its tile. A head's last tiles come first: causal masks show them most,
    and what is left at the end is small."""
    tile = tiles - 1 - program % tiles
    head = program // tiles % (shape.heads // pack) * pack
    if shape.cu_q is None:
        batch = program // tiles // (shape.heads // pack)
        return Place(batch, head, tile, 0, shape.len_q, 0, shape.len_k)
    else:
        sequence, own = find_sequence(shape.cu_q, shape.batch, shape.len_q, tile, pack, HEIGHT)
        batch = tl.minimum(sequence, shape.batch - 1)
        first_q, len_q = sequence_rows(shape.cu_q, batch, shape.len_q)
        first_k, len_k = sequence_rows(shape.cu_k, batch, shape.len_k)
        return Place(batch, head, own, first_q, tl.where(sequence < shape.batch, len_q, 0), first_k, len_k)


@triton.jit
def tile_rows(place, pack, HEIGHT: tl.constexpr, PACK: tl.constexpr):
    """The rows of a tile: of one head, or with PACK of `pack` heads one after another."""
    row = place.tile * HEIGHT + tl.arange(0, HEIGHT)
    if PACK:
        member = row // tl.maximum(place.len_q, 1)
        return Rows(place.batch, place.head + member, row - member * place.len_q, row < pack * place.len_q)
    else:
        return Rows(place.batch, place.head, row, row < place.len_q)


@triton.jit
def at_head(operand, place, batch, head):
    """The first element of a (batch, head) of an operand, at a packed sequence's first row."""
    at = tl.cast(batch, tl.int64) * operand.batch + tl.cast(head, tl.int64) * operand.head
    return operand.data + (at + tl.cast(place, tl.int64) * operand.row)


@triton.jit
def source_of(segments, lengths, offsets, shape, segment, batch, head, first_k, len_k):
    """A segment's rows for a key head, from a packed sequence's first key on."""
    batch, head, first = tl.cast(batch, tl.int64), tl.cast(head, tl.int64), tl.cast(first_k, tl.int64)
    key_row, value_row = chosen(segments.key_row, segment), chosen(segments.value_row, segment)
    key_at = batch * chosen(segments.key_batch, segment) + head * chosen(segments.key_head, segment) + first * key_row
    value_at = batch * chosen(segments.value_batch, segment) + head * chosen(segments.value_head, segment)
    value_at += first * value_row
    length = chosen(lengths, segment)
    if shape.cu_k is not None:
        length = len_k
    return Source(
        chosen(segments.key_data, segment) + key_at, key_row, chosen(segments.value_data, segment) + value_at,
        value_row, length, chosen(offsets, segment), segment,
    )  # fmt: skip


# ---- visibility ----


@triton.jit
def interval_end(ends, stride, source, rows, first_q, VARLEN: tl.constexpr):
    """`start` or `stop` of rows, inside the segment whatever the tensor says."""
    batch = rows.batch * 0 if VARLEN else rows.batch
    at = tl.cast(source.segment, tl.int64) * stride[0] + tl.cast(batch, tl.int64) * stride[1]
    at += tl.cast(rows.head, tl.int64) * stride[2] + (first_q + rows.query).to(tl.int64) * stride[3]
    return tl.minimum(tl.maximum(tl.load(ends + at, mask=rows.exists, other=0), 0), source.length)


@triton.jit
def intervals(mask, source, rows, first_q, VARLEN: tl.constexpr):
    """[start, stop) of the segment's keys that each row sees; rows that do not exist see none."""
    start = tl.where(rows.exists, 0, 0)
    stop = tl.where(rows.exists, source.length, 0)
    if mask.start is not None:
        start = interval_end(mask.start, mask.start_stride, source, rows, first_q, VARLEN)
    if mask.stop is not None:
        stop = interval_end(mask.stop, mask.stop_stride, source, rows, first_q, VARLEN)
    return start, stop


@triton.jit
def reads_dense(mask):
    """Whether the dense part is to be read: it is there, and no flag says that the intervals are the whole mask."""
    if mask.visible is None:
        return False
    else:
        if mask.exact is None:
            return True
        else:
            return tl.load(mask.exact) == 0


@triton.jit
def visible_pairs(mask, dense, rows, start, stop, source, local):
    """Whether each pair is visible; `local`: keys as indices in their segment. Rows and keys broadcast."""
    seen = (local >= start) & (local < stop)
    if mask.visible is not None:
        stride, size = mask.visible_stride, mask.visible_size
        at = tl.cast(rows.batch, tl.int64) * stride[0] + tl.cast(rows.head, tl.int64) * stride[1]
        at += nearest(rows.query, size[0]).to(tl.int64) * stride[2]
        at += nearest(source.offset + local, size[1]).to(tl.int64) * stride[3]
        seen = seen & ((tl.load(mask.visible + at, mask=seen & dense, other=1)) != 0)
    return seen


# ---- logits ----


@triton.jit
def as_fp32(x):
    """fp16's least number, with which models mask, stands for fp32's: a row of nothing else is uniform."""
    wide = x.to(tl.float32)
    if x.dtype == tl.float16:
        wide = tl.where(wide == -65504.0, -3.4028234663852886e38, wide)
    return wide


@triton.jit
def part_at(bias, PART: tl.constexpr, rows, entry, seen):
    """The entries of a part of the bias; sizes are kept to, for nobody has checked the longest packed sequence."""
    stride, size = bias.stride[PART], bias.size[PART]
    at = tl.cast(rows.batch, tl.int64) * stride[0] + tl.cast(rows.head, tl.int64) * stride[1]
    at += nearest(rows.query, size[0]).to(tl.int64) * stride[2] + nearest(entry, size[1]).to(tl.int64) * stride[3]
    return tl.load(bias.part[PART] + at, mask=seen, other=0.0)


@triton.jit
def bias_of(bias, rows, key, seen, KIND: tl.constexpr):
    """The bias of visible pairs; `key` counts over all segments."""
    if KIND == DENSE:
        return as_fp32(part_at(bias, 0, rows, key, seen))
    elif KIND == RELATIVE:
        return as_fp32(part_at(bias, 0, rows, key - rows.query + bias.zero, seen))
    else:
        width = tl.maximum(bias.size[1][1], 1)
        across = part_at(bias, 0, rows, key // width, seen).to(tl.float32)
        return across + part_at(bias, 1, rows, key % width, seen).to(tl.float32)


@triton.jit
def seen_and_added(mask, dense, bias, rows, start, stop, source, local, BIAS: tl.constexpr):
    """Which pairs are visible, those of a bias of -inf not among them, and the bias of the others."""
    seen = visible_pairs(mask, dense, rows, start, stop, source, local)
    if BIAS == NONE:
        added = 0.0
    else:
        added = bias_of(bias, rows, source.offset + local, seen, BIAS)
        seen = seen & (added != float("-inf"))
    return seen, added


@triton.jit
def hyperbolic_tangent(x):
    """tanh by one exponential: with a small |x| its relative error is that of 1 - e^-2|x|, so a series serves there."""
    size = tl.abs(x)
    decay = tl.exp2(size * (-2.0 * LOG2E))
    square = x * x
    series = x * (1.0 + square * (-0.33333333 + square * (0.13333334 + square * -0.053968254)))
    whole = (1.0 - decay) / (1.0 + decay)
    return tl.where(size < 0.1, series, tl.where(x < 0.0, -whole, whole))


@triton.jit
def capped(products, scale, softcap, SOFTCAP: tl.constexpr):
    """The logits of products q k before the bias, and their derivative by the scaled product."""
    x = products * scale
    if SOFTCAP:
        t = hyperbolic_tangent(x / softcap)
        return softcap * t, tl.fma(-t, t, 1.0)
    else:
        return x, 1.0


@triton.jit
def kept_pairs(dropout, rows, first, KEYS: tl.constexpr):
    """Whether each pair of rows, of shape (M, 1), and keys from `first` on, over all segments, survives dropout."""
    seed = tl.load(dropout.seed)
    low, high = (seed & 0xFFFFFFFF).to(tl.uint32), ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    batch = (tl.cast(rows.batch, tl.int64) + dropout.batch).to(tl.uint32)
    head = (tl.cast(rows.head, tl.int64) + dropout.head).to(tl.uint32)
    query = (rows.query.to(tl.int64) + dropout.query).to(tl.uint32)
    words = philox_words(batch, head, query, tl.cast(first, tl.int64) + dropout.key, low, high, KEYS)
    return words >= tl.cast(dropout.threshold, tl.uint32)


@triton.jit
def pair_gradients(
    products, grad_weights, statistics, seen, added, kept, keep_scale, scale, softcap,
    SOFTCAP: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """Of pairs: weights after dropout (without `keep_scale`), gradients of biased logits, and of scaled products.

    statistics: of rows, broadcasting against the pairs; seen: None where all are; kept: None without dropout.
    """
    if FOLDED:
        slope = 1.0
        weights = tl.exp2(tl.fma(products, scale * LOG2E, -statistics.shift * LOG2E))
    else:
        logits, slope = capped(products, scale, softcap, SOFTCAP)
        weights = tl.exp2((logits + added - statistics.shift) * LOG2E) * statistics.factor
    if kept is None:
        gradients = weights * (grad_weights - statistics.delta)
    else:
        gradients = weights * (tl.where(kept, grad_weights * keep_scale, 0.0) - statistics.delta)
        weights = tl.where(kept, weights, 0.0)
    if seen is not None:
        weights = tl.where(seen, weights, 0.0)
        gradients = tl.where(seen, gradients, 0.0)
    if SOFTCAP:
        slopes = gradients * slope
        if seen is not None:
            slopes = tl.where(seen, slopes, 0.0)
    else:
        slopes = gradients
    return weights, gradients, slopes
