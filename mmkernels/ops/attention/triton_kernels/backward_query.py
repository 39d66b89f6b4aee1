"""Gradient of the query in Triton, from the statistics of rows.

    s = q k^T    weight = exp(logit(s) - lse)    dP = dO v^T    dS = weight (dropped dP - delta)    dq = scale dS k

A program owns a tile of HEIGHT query rows and walks the blocks of KEYS keys that one of them sees, in order: dq is one
chain of sums over the keys, of batch entries one after another where the query is broadcast.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.attention.triton_kernels.pairs import (
    FAR,
    NONE,
    Place,
    Rows,
    Statistics,
    at_head,
    intervals,
    kept_pairs,
    pair_gradients,
    query_place,
    reads_dense,
    seen_and_added,
    source_of,
    tile_rows,
)
from mmkernels.ops.attention.triton_kernels.statistics import load_statistics
from mmkernels.triton_blocks import isolated_product, load_rows, store_rows

NOT_SPECIALISED = ("lengths", "offsets", "dropout", "shape", "scale", "softcap", "tiles", "batches")


@triton.jit
def block_gradients(
    query, grad_out, keys, source, first, rows, start, stop, statistics, mask, dense, bias, dropout, scale, softcap,
    DIM_V: tl.constexpr, PADDED_V: tl.constexpr, HEIGHT: tl.constexpr, KEYS: tl.constexpr, BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr, FOLDED: tl.constexpr, PRECISION: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Of rows and a block of keys: gradients of biased logits, those of scaled products, the visible pairs."""
    local = first + tl.arange(0, KEYS)
    inside = None if FULL else local < source.length
    values = load_rows(source.value_data, local, source.value_row, inside, DIM_V, PADDED_V)
    products = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
    grad_weights = tl.dot(grad_out, tl.trans(values), input_precision=PRECISION)
    pair_rows = Rows(rows.batch, rows.head, rows.query[:, None], None)
    if FULL:
        seen, added = None, 0.0
    else:
        seen, added = seen_and_added(
            mask, dense, bias, pair_rows, start[:, None], stop[:, None], source, local[None, :], BIAS
        )
    if dropout.seed is None:
        kept = None
    else:
        kept = kept_pairs(dropout, pair_rows, source.offset + first, KEYS)
    columns = Statistics(statistics.shift[:, None], statistics.factor[:, None], statistics.delta[:, None])
    _, gradients, slopes = pair_gradients(
        products, grad_weights, columns, seen, added, kept, dropout.keep_scale, scale, softcap, SOFTCAP, FOLDED
    )
    return gradients, slopes, seen


@triton.jit
def add_block(
    gradient, query, grad_out, source, first, rows, start, stop, statistics, mask, dense, bias, dropout, scale,
    softcap, DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr,
    HEIGHT: tl.constexpr, KEYS: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, FOLDED: tl.constexpr,
    PRECISION: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """The gradient with the keys [first, first + KEYS) of a segment; FULL: every row sees all of them."""
    local = first + tl.arange(0, KEYS)
    keys = load_rows(source.key_data, local, source.key_row, None if FULL else local < source.length, DIM, PADDED)
    _, slopes, seen = block_gradients(
        query, grad_out, keys, source, first, rows, start, stop, statistics, mask, dense, bias, dropout, scale,
        softcap, DIM_V, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION, FULL,
    )  # fmt: skip
    if FULL:
        return tl.dot(slopes.to(keys.dtype), keys, gradient, input_precision=PRECISION)
    else:
        at = source.key_data + tl.cast(first, tl.int64) * source.key_row
        return isolated_product(slopes, seen, keys, gradient, at, source.key_row, source.length - first, DIM, PRECISION)


@triton.jit
def add_seen_blocks(
    gradient, begin, end, query, grad_out, source, rows, start, stop, statistics, mask, dense, bias, dropout, scale,
    softcap, DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr,
    HEIGHT: tl.constexpr, KEYS: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, FOLDED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Those blocks in [begin, end) of which some row sees a key."""
    for first in range(begin, end, KEYS):
        some = (start < stop) & (start < first + KEYS) & (stop > first)
        if tl.max(some.to(tl.int32)) > 0:
            gradient = add_block(
                gradient, query, grad_out, source, first, rows, start, stop, statistics, mask, dense, bias, dropout,
                scale, softcap, DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION, False,
            )  # fmt: skip
    return gradient


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def attention_grad_query(
    grad_query, grad_out, statistics, query, segments, lengths, offsets, mask, bias, dropout, shape, scale, softcap,
    tiles, batches,
    DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr, HEIGHT: tl.constexpr,
    KEYS: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, FOLDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of rows, of `batches` batch entries: 1, or all where they share their query."""
    VARLEN: tl.constexpr = shape.cu_q is not None
    place = query_place(shape, tl.program_id(0), tiles, 1, HEIGHT)
    rows = tile_rows(place, 1, HEIGHT, False)
    row = (place.first_q + rows.query).to(tl.int64)
    batch = place.batch * 0 if VARLEN else place.batch
    query_tile = load_rows(at_head(query, 0, batch, place.head), row * query.row, 1, rows.exists, DIM, PADDED)
    dense = reads_dense(mask)
    gradient = tl.zeros((HEIGHT, PADDED), tl.float32)
    for entry in range(batches):
        own = Place(place.batch + entry, place.head, place.tile, place.first_q, place.len_q, place.first_k, place.len_k)
        rows = tile_rows(own, 1, HEIGHT, False)
        found = load_statistics(statistics, shape, own, rows)
        grad_tile = load_rows(
            at_head(grad_out, 0, batch + entry, place.head), row * grad_out.row, 1, rows.exists, DIM_V, PADDED_V
        )
        for segment in range(1 if VARLEN else len(lengths)):
            source = source_of(
                segments, lengths, offsets, shape, segment, own.batch, own.head // shape.group, own.first_k, own.len_k
            )
            start, stop = intervals(mask, source, rows, own.first_q, VARLEN)
            some = start < stop
            low = tl.min(tl.where(some, start, FAR)) // KEYS * KEYS
            high = tl.max(tl.where(some, stop, 0))
            full_low = tl.cdiv(tl.max(start), KEYS) * KEYS
            full_high = tl.min(tl.where(rows.exists, stop, FAR)) // KEYS * KEYS
            if BIAS != NONE:
                full_high = full_low
            if mask.visible is not None:
                full_high = tl.where(dense, full_low, full_high)
            none_full = (full_high <= full_low) | (low >= high)
            full_low, full_high = tl.where(none_full, high, full_low), tl.where(none_full, high, full_high)
            gradient = add_seen_blocks(
                gradient, low, full_low, query_tile, grad_tile, source, rows, start, stop, found, mask, dense, bias,
                dropout, scale, softcap, DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION,
            )  # fmt: skip
            if BIAS == NONE:
                for first in range(full_low, full_high, KEYS):
                    gradient = add_block(
                        gradient, query_tile, grad_tile, source, first, rows, start, stop, found, mask, dense, bias,
                        dropout, scale, softcap, DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED,
                        PRECISION, True,
                    )  # fmt: skip
                gradient = add_seen_blocks(
                    gradient, full_high, high, query_tile, grad_tile, source, rows, start, stop, found, mask, dense,
                    bias, dropout, scale, softcap, DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED,
                    PRECISION,
                )  # fmt: skip
    to = at_head(grad_query, 0, batch, place.head)
    store_rows(to, row * grad_query.row, 1, rows.exists, gradient * scale, DIM, PADDED)
