"""What the passes of the backward must know of every row before they start.

    delta = sum(grad_out out) - grad_lse        shift = lse, factor = 1

A row that sees no key (lse -inf) has no gradients: its shift is +inf, so that exp(logit - shift) is 0. With a bias,
exp(logit - lse) may lose everything: finfo.min + log(n) rounds to finfo.min. Rows whose lse is far from 0 then get
their maximum for shift, and 1 / sum for factor.

Statistics stand one after another: (batch, head, row), packed sequences (head, token).
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.attention.triton_kernels.pairs import (
    Rows,
    Statistics,
    at_head,
    capped,
    intervals,
    query_place,
    reads_dense,
    seen_and_added,
    source_of,
    tile_rows,
)
from mmkernels.triton_blocks import LOG2E, load_rows, safe_shift

NEAR = tl.constexpr(64.0)
"""Rows whose lse is nearer to 0 keep it."""
NOT_SPECIALISED = ("lengths", "offsets", "dropout", "shape", "scale", "softcap", "programs", "tiles", "count")


@triton.jit
def statistics_at(shape, batch, head, row):
    """Where a row's statistics stand; `row` counts in the packed tensor."""
    if shape.cu_q is None:
        first = tl.cast(batch, tl.int64) * shape.heads + head
    else:
        first = tl.cast(head, tl.int64)
    return first * shape.len_q + row


@triton.jit
def load_statistics(statistics, shape, place, rows):
    """Of a tile's rows; those that do not exist see nothing."""
    at = statistics_at(shape, place.batch, place.head, place.first_q + rows.query)
    return Statistics(
        tl.load(statistics.shift + at, mask=rows.exists, other=float("inf")),
        tl.load(statistics.factor + at, mask=rows.exists, other=1.0),
        tl.load(statistics.delta + at, mask=rows.exists, other=0.0),
    )


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def attention_delta(
    statistics, grad_out, out, lse, grad_lse, shape, count,
    DIM_V: tl.constexpr, PADDED_V: tl.constexpr, HEIGHT: tl.constexpr,
):  # fmt: skip
    """`count` rows of all batch entries and heads, HEIGHT of them a program."""
    index = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    exists = index < count
    row, head, batch = index % shape.len_q, index // shape.len_q % shape.heads, index // shape.len_q // shape.heads
    grad_at = batch * grad_out.batch + head * grad_out.head + row * grad_out.row
    out_at = batch * out.batch + head * out.head + row * out.row
    grad = load_rows(grad_out.data, grad_at, 1, exists, DIM_V, PADDED_V).to(tl.float32)
    delta = tl.sum(grad * load_rows(out.data, out_at, 1, exists, DIM_V, PADDED_V).to(tl.float32), 1)
    found = tl.load(lse.data + batch * lse.batch + head * lse.head + row * lse.row, mask=exists, other=0.0)
    if grad_lse.data is not None:
        at = batch * grad_lse.batch + head * grad_lse.head + row * grad_lse.row
        delta -= tl.load(grad_lse.data + at, mask=exists, other=0.0)
    empty = found == float("-inf")
    shift = tl.where(empty, float("inf"), tl.where(found == float("inf"), float("nan"), found))
    tl.store(statistics.shift + index, shift, mask=exists)
    tl.store(statistics.factor + index, tl.full((HEIGHT,), 1.0, tl.float32), mask=exists)
    tl.store(statistics.delta + index, tl.where(empty, 0.0, delta), mask=exists)


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def attention_far_rows(
    statistics, query, segments, lengths, offsets, mask, bias, dropout, shape, scale, softcap, tiles,
    DIM: tl.constexpr, PADDED: tl.constexpr, HEIGHT: tl.constexpr, KEYS: tl.constexpr,
    BIAS: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Maximum and sum, anew, of a tile's rows that are far; a tile without one ends at once."""
    VARLEN: tl.constexpr = shape.cu_q is not None
    place = query_place(shape, tl.program_id(0), tiles, 1, HEIGHT)
    rows = tile_rows(place, 1, HEIGHT, False)
    shift = load_statistics(statistics, shape, place, rows).shift
    far = rows.exists & (tl.abs(shift) > NEAR) & (tl.abs(shift) < float("inf"))
    if tl.max(far.to(tl.int32)) > 0:
        row = (place.first_q + rows.query).to(tl.int64)
        batch = place.batch * 0 if VARLEN else place.batch
        tile = load_rows(at_head(query, 0, batch, place.head), row * query.row, 1, rows.exists, DIM, PADDED)
        pair_rows = Rows(rows.batch, rows.head, rows.query[:, None], None)
        dense = reads_dense(mask)
        row_max = tl.full((HEIGHT,), float("-inf"), tl.float32)
        row_sum = tl.zeros((HEIGHT,), tl.float32)
        for segment in range(1 if VARLEN else len(lengths)):
            source = source_of(
                segments, lengths, offsets, shape, segment, place.batch, place.head // shape.group, place.first_k,
                place.len_k,
            )  # fmt: skip
            start, stop = intervals(mask, source, rows, place.first_q, VARLEN)
            for first in range(0, source.length, KEYS):
                local = first + tl.arange(0, KEYS)
                keys = load_rows(source.key_data, local, source.key_row, local < source.length, DIM, PADDED)
                products = tl.dot(tile, tl.trans(keys), input_precision=PRECISION)
                logits, _ = capped(products, scale, softcap, SOFTCAP)
                seen, added = seen_and_added(
                    mask, dense, bias, pair_rows, start[:, None], stop[:, None], source, local[None, :], BIAS
                )
                logits = tl.where(seen, logits + added, float("-inf"))
                new_max = tl.maximum(row_max, tl.max(logits, 1))
                top = safe_shift(new_max)
                weights = tl.exp2((logits - top[:, None]) * LOG2E)
                row_sum = tl.fma(row_sum, tl.exp2((row_max - top) * LOG2E), tl.sum(weights, 1))
                row_max = new_max
        at = statistics_at(shape, place.batch, place.head, row)
        tl.store(statistics.shift + at, row_max, mask=far)
        tl.store(statistics.factor + at, 1.0 / row_sum, mask=far)
