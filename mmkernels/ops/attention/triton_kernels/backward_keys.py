"""Gradients of keys and values in Triton, from the statistics of rows.

    s = k q^T    weight = exp(logit(s) - lse)    dP = v dO^T    dS = weight (dropped dP - delta)

    dv = drop(weight) dO        dk = scale dS q

A program owns a tile of KEYS keys of a segment and key head, and walks tiles of HEIGHT query rows, in order: of batch
entries where the keys are broadcast, of the heads of its group, of rows. Pairs stand transposed, keys down and rows
across, so that the left operand of each second product is where the first one left it. Every sum is one chain.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.attention.triton_kernels.pairs import (
    NONE,
    Place,
    Rows,
    Statistics,
    at_head,
    find_sequence,
    intervals,
    kept_pairs,
    pair_gradients,
    reads_dense,
    seen_and_added,
    sequence_rows,
    source_of,
    tile_rows,
)
from mmkernels.ops.attention.triton_kernels.statistics import load_statistics
from mmkernels.triton_blocks import isolated_product, load_rows, store_rows

NOT_SPECIALISED = (
    "lengths", "offsets", "dropout", "shape", "scale", "softcap", "segment", "tiles", "batches",
)  # fmt: skip


@triton.jit
def add_rows(
    grad_key, grad_value, keys, values, query, query_data, query_row, grad_out, grad_data, grad_row, count, source,
    first, rows, start, stop, statistics, mask, dense, bias, dropout, scale, softcap,
    DIM: tl.constexpr, DIM_V: tl.constexpr, HEIGHT: tl.constexpr, KEYS: tl.constexpr, BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr, FOLDED: tl.constexpr, PRECISION: tl.constexpr,
    WANTS_KEY: tl.constexpr, WANTS_VALUE: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """The gradients with a tile of rows, the first `count` at `query_data` and `grad_data`.

    FULL: every row that exists sees all of the keys.
    """
    if FULL:
        seen, added = None, 0.0
    else:
        local = first + tl.arange(0, KEYS)
        pair_rows = Rows(rows.batch, rows.head, rows.query[None, :], None)
        seen, added = seen_and_added(
            mask, dense, bias, pair_rows, start[None, :], stop[None, :], source, local[:, None], BIAS
        )
    if dropout.seed is None:
        kept = None
    else:
        down = Rows(rows.batch, rows.head, rows.query[:, None], None)
        kept = tl.trans(kept_pairs(dropout, down, source.offset + first, KEYS).to(tl.int8)) != 0
    products = tl.dot(keys, tl.trans(query), input_precision=PRECISION)
    grad_weights = tl.dot(values, tl.trans(grad_out), input_precision=PRECISION)
    across = Statistics(statistics.shift[None, :], statistics.factor[None, :], statistics.delta[None, :])
    weights, _, slopes = pair_gradients(
        products, grad_weights, across, seen, added, kept, dropout.keep_scale, scale, softcap, SOFTCAP, FOLDED
    )
    if FULL:
        if WANTS_VALUE:
            grad_value = tl.dot(weights.to(grad_out.dtype), grad_out, grad_value, input_precision=PRECISION)
        if WANTS_KEY:
            grad_key = tl.dot(slopes.to(query.dtype), query, grad_key, input_precision=PRECISION)
    else:
        if WANTS_VALUE:
            grad_value = isolated_product(
                weights, seen, grad_out, grad_value, grad_data, grad_row, count, DIM_V, PRECISION
            )
        if WANTS_KEY:
            grad_key = isolated_product(slopes, seen, query, grad_key, query_data, query_row, count, DIM, PRECISION)
    return grad_key, grad_value


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def attention_grad_keys(
    grad_keys, grad_values, grad_out, statistics, query, segments, lengths, offsets, mask, bias, dropout, shape,
    scale, softcap, segment, tiles, batches,
    DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr, HEIGHT: tl.constexpr,
    KEYS: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, FOLDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of a segment's keys, of `batches` batch entries: 1, or all where they share the segment."""
    VARLEN: tl.constexpr = shape.cu_q is not None
    WANTS_KEY: tl.constexpr = grad_keys.data is not None
    WANTS_VALUE: tl.constexpr = grad_values.data is not None
    # The registers do not hold keys, values and what follows from their places beside the sums: made anew for each tile
    # of rows, from a first key that comes with a sum of 0 of which the compiler does not know it.
    WIDE: tl.constexpr = max(PADDED, PADDED_V) > 128
    program = tl.program_id(0)
    tile = program % tiles
    key_heads = shape.heads // shape.group
    key_head = program // tiles % key_heads
    if VARLEN:
        sequence, tile = find_sequence(shape.cu_k, shape.batch, shape.len_k, tile, 1, KEYS)
        batch = tl.minimum(sequence, shape.batch - 1)
        first_q, len_q = sequence_rows(shape.cu_q, batch, shape.len_q)
        first_k, len_k = sequence_rows(shape.cu_k, batch, shape.len_k)
        len_k = tl.where(sequence < shape.batch, len_k, 0)
    else:
        batch = program // tiles // key_heads
        first_q, len_q, first_k, len_k = program * 0, shape.len_q, program * 0, shape.len_k
    first = tile * KEYS
    local = first + tl.arange(0, KEYS)
    dense = reads_dense(mask)
    grad_key = tl.zeros((KEYS, PADDED), tl.float32)
    grad_value = tl.zeros((KEYS, PADDED_V), tl.float32)
    length = 0
    for entry in range(batches):
        source = source_of(segments, lengths, offsets, shape, segment, batch + entry, key_head, first_k, len_k)
        length = source.length
        last = tl.minimum(first + KEYS, length)
        exists = local < length
        if not WIDE:
            keys = load_rows(source.key_data, local, source.key_row, exists, DIM, PADDED)
            values = load_rows(source.value_data, local, source.value_row, exists, DIM_V, PADDED_V)
        own = batch * 0 if VARLEN else batch + entry
        for member in range(shape.group):
            head = key_head * shape.group + member
            query_data, grad_data = at_head(query, 0, own, head), at_head(grad_out, 0, own, head)
            for row_tile in range(tl.where(last > first, tl.cdiv(len_q, HEIGHT), 0)):
                place = Place(batch + entry, head, row_tile, first_q, len_q, first_k, len_k)
                rows = tile_rows(place, 1, HEIGHT, False)
                start, stop = intervals(mask, source, rows, first_q, VARLEN)
                if tl.max(((start < stop) & (start < last) & (stop > first)).to(tl.int32)) > 0:
                    here = first
                    if WIDE:
                        here += row_tile >> 30
                        again = here + tl.arange(0, KEYS)
                        keys = load_rows(source.key_data, again, source.key_row, again < length, DIM, PADDED)
                        values = load_rows(source.value_data, again, source.value_row, again < length, DIM_V, PADDED_V)
                    row = (first_q + rows.query).to(tl.int64)
                    query_tile = load_rows(query_data, row * query.row, 1, rows.exists, DIM, PADDED)
                    grad_tile = load_rows(grad_data, row * grad_out.row, 1, rows.exists, DIM_V, PADDED_V)
                    row_first = tl.cast(first_q + row_tile * HEIGHT, tl.int64)
                    count = len_q - row_tile * HEIGHT
                    found = load_statistics(statistics, shape, place, rows)
                    full = False
                    if BIAS == NONE:
                        whole = (rows.exists == 0) | ((start <= here) & (stop >= here + KEYS))
                        full = tl.min(whole.to(tl.int32)) > 0
                        if mask.visible is not None:
                            full = full & (dense == 0)
                    if full:
                        grad_key, grad_value = add_rows(
                            grad_key, grad_value, keys, values, query_tile, query_data + row_first * query.row,
                            query.row, grad_tile, grad_data + row_first * grad_out.row, grad_out.row, count, source,
                            here, rows, start, stop, found, mask, dense, bias, dropout, scale, softcap, DIM, DIM_V,
                            HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION, WANTS_KEY, WANTS_VALUE, True,
                        )  # fmt: skip
                    else:
                        grad_key, grad_value = add_rows(
                            grad_key, grad_value, keys, values, query_tile, query_data + row_first * query.row,
                            query.row, grad_tile, grad_data + row_first * grad_out.row, grad_out.row, count, source,
                            here, rows, start, stop, found, mask, dense, bias, dropout, scale, softcap, DIM, DIM_V,
                            HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION, WANTS_KEY, WANTS_VALUE, False,
                        )  # fmt: skip
    to = batch * 0 if VARLEN else batch
    row = (first_k + local).to(tl.int64)
    exists = local < length
    if WANTS_KEY:
        store_rows(at_head(grad_keys, 0, to, key_head), row * grad_keys.row, 1, exists, grad_key * scale, DIM, PADDED)
    if WANTS_VALUE:
        grad_value = grad_value * dropout.keep_scale
        store_rows(at_head(grad_values, 0, to, key_head), row * grad_values.row, 1, exists, grad_value, DIM_V, PADDED_V)
