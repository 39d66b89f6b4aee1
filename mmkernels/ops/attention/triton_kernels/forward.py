"""Attention forward in Triton (Dao et al., "FlashAttention-2", 2023).

    out = dropout(softmax(scale q k^T + bias, masked)) v        lse = log sum exp of the same logits

A program owns a tile of HEIGHT query rows and walks the blocks of KEYS keys between the first and the last that one of
its rows sees, in chunks of CHUNK keys of a segment. Blocks that every row sees whole have no element test; a block
that no row sees is not loaded. A chunk starts from an empty state and the chunks of a row are merged in order: a
program that walks them all keeps the merged state in device memory in between, programs that have a chunk each leave
it there for `attention_merge`. Both ways give the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from mmkernels.ops.attention.triton_kernels.pairs import (
    FAR,
    NONE,
    Rows,
    Source,
    at_head,
    capped,
    intervals,
    kept_pairs,
    query_place,
    reads_dense,
    seen_and_added,
    source_of,
    tile_rows,
)
from mmkernels.triton_blocks import LN2, LOG2E, isolated_product, load_rows, merge, safe_shift, store_rows

NOT_SPECIALISED = ("lengths", "offsets", "dropout", "shape", "scale", "softcap", "programs", "tiles", "pack", "chunks")


class States(NamedTuple):
    """States of rows in device memory, one after another: those of a tile and chunk, then those of the next tile."""

    row_max: Any
    row_sum: Any
    total: Any


# ---- a block of keys ----


@triton.jit
def add_block(
    row_max, row_sum, total, query, source, first, rows, start, stop, mask, dense, bias, dropout, scale, softcap,
    DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr,
    HEIGHT: tl.constexpr, KEYS: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, FOLDED: tl.constexpr,
    PRECISION: tl.constexpr, PACK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """The state with the keys [first, first + KEYS) of a segment; FULL: every row sees all of them."""
    local = first + tl.arange(0, KEYS)
    inside = None if FULL else local < source.length
    keys = load_rows(source.key_data, local, source.key_row, inside, DIM, PADDED)
    logits = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
    pair_rows = Rows(rows.batch, tl.expand_dims(rows.head, 1) if PACK else rows.head, rows.query[:, None], None)
    if not FOLDED:
        logits, _ = capped(logits, scale, softcap, SOFTCAP)
    if not FULL:
        seen, added = seen_and_added(
            mask, dense, bias, pair_rows, start[:, None], stop[:, None], source, local[None, :], BIAS
        )
        logits = tl.where(seen, logits + added, float("-inf"))
    if FOLDED:
        factor = scale * LOG2E
        new_max = tl.maximum(row_max, tl.max(logits, 1) * factor)
        shift = safe_shift(new_max)
        weights = tl.exp2(tl.fma(logits, factor, -shift[:, None]))
        decay = tl.exp2(row_max - shift)
    else:
        new_max = tl.maximum(row_max, tl.max(logits, 1))
        shift = safe_shift(new_max)
        weights = tl.exp2((logits - shift[:, None]) * LOG2E)
        decay = tl.exp2((row_max - shift) * LOG2E)
    row_sum = tl.fma(row_sum, decay, tl.sum(weights, 1))
    if dropout.seed is not None:
        kept = kept_pairs(dropout, pair_rows, source.offset + first, KEYS)
        weights = tl.where(kept, weights, 0.0)
    values = load_rows(source.value_data, local, source.value_row, inside, DIM_V, PADDED_V)
    total = total * decay[:, None]
    if FULL:
        total = tl.dot(weights.to(values.dtype), values, total, input_precision=PRECISION)
    else:
        weights = tl.where(seen, weights, 0.0)
        at = source.value_data + tl.cast(first, tl.int64) * source.value_row
        total = isolated_product(
            weights, seen, values, total, at, source.value_row, source.length - first, DIM_V, PRECISION, True
        )
    return new_max, row_sum, total


@triton.jit
def add_seen_blocks(
    row_max, row_sum, total, begin, end, query, source, rows, start, stop, mask, dense, bias, dropout, scale, softcap,
    DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr,
    HEIGHT: tl.constexpr, KEYS: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, FOLDED: tl.constexpr,
    PRECISION: tl.constexpr, PACK: tl.constexpr, HOIST: tl.constexpr,
):  # fmt: skip
    """Those blocks in [begin, end) of which some row sees a key."""
    for first in tl.range(begin, end, KEYS, disable_licm=not HOIST):
        some = (start < stop) & (start < first + KEYS) & (stop > first)
        if tl.max(some.to(tl.int32)) > 0:
            row_max, row_sum, total = add_block(
                row_max, row_sum, total, query, source, first, rows, start, stop, mask, dense, bias, dropout, scale,
                softcap, DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION, PACK, False,
            )  # fmt: skip
    return row_max, row_sum, total


# ---- a chunk ----


@triton.jit
def find_chunk(lengths, shape, len_k, chunk, CHUNK: tl.constexpr):
    """The segment of a chunk, counted over all segments, and the chunk's first key there."""
    if shape.cu_k is not None:
        return chunk * 0, chunk * CHUNK
    else:
        segment, before = chunk * 0, chunk * 0
        last_before = chunk * 0
        for s in tl.static_range(len(lengths)):
            here = chunk >= before
            segment = tl.where(here & (lengths[s] > 0), s, segment)
            last_before = tl.where(here & (lengths[s] > 0), before, last_before)
            before += tl.cdiv(lengths[s], CHUNK)
        return segment, (chunk - last_before) * CHUNK


@triton.jit
def chunk_state(
    query, segments, lengths, offsets, mask, bias, dropout, shape, place, rows, chunk, scale, softcap,
    DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr, HEIGHT: tl.constexpr,
    KEYS: tl.constexpr, CHUNK: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, FOLDED: tl.constexpr,
    PRECISION: tl.constexpr, PACK: tl.constexpr, HOIST: tl.constexpr,
):  # fmt: skip
    """The state of a tile's rows over one chunk of keys."""
    VARLEN: tl.constexpr = shape.cu_q is not None
    segment, begin = find_chunk(lengths, shape, place.len_k, chunk, CHUNK)
    source = source_of(
        segments, lengths, offsets, shape, segment, place.batch, place.head // shape.group, place.first_k, place.len_k
    )
    apart = (chunk >> 30) * 16  # 0, as in `found_again`; addresses stay multiples of 16 elements
    source = Source(
        source.key_data, source.key_row + apart, source.value_data, source.value_row + apart, source.length,
        source.offset, source.segment,
    )  # fmt: skip
    end = tl.minimum(begin + CHUNK, source.length)
    start, stop = intervals(mask, source, rows, place.first_q, VARLEN)
    dense = reads_dense(mask)

    # Blocks that some row sees, and those between the last start and the first stop, which all rows see whole.
    some = start < stop
    low = tl.maximum(tl.min(tl.where(some, start, FAR)), begin) // KEYS * KEYS
    high = tl.minimum(tl.max(tl.where(some, stop, 0)), end)
    full_low = tl.cdiv(tl.maximum(tl.max(start), begin), KEYS) * KEYS
    full_high = tl.minimum(tl.min(tl.where(rows.exists, stop, FAR)), end) // KEYS * KEYS
    if BIAS != NONE:
        full_high = full_low
    if mask.visible is not None:
        full_high = tl.where(dense, full_low, full_high)
    none_full = (full_high <= full_low) | (low >= high)
    full_low, full_high = tl.where(none_full, high, full_low), tl.where(none_full, high, full_high)

    row_max = tl.full((HEIGHT,), float("-inf"), tl.float32)
    row_sum = tl.zeros((HEIGHT,), tl.float32)
    total = tl.zeros((HEIGHT, PADDED_V), tl.float32)
    if BIAS == NONE:
        # What is seen in part and then whole; then what is seen in part behind it.
        for part in tl.range(2, disable_licm=not HOIST):
            row_max, row_sum, total = add_seen_blocks(
                row_max, row_sum, total, tl.where(part == 0, low, full_high), tl.where(part == 0, full_low, high),
                query, source, rows, start, stop, mask, dense, bias, dropout, scale, softcap, DIM, DIM_V, PADDED,
                PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION, PACK, HOIST,
            )  # fmt: skip
            for first in range(tl.where(part == 0, full_low, full_high), full_high, KEYS):
                row_max, row_sum, total = add_block(
                    row_max, row_sum, total, query, source, first, rows, start, stop, mask, dense, bias, dropout,
                    scale, softcap, DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION,
                    PACK, True,
                )  # fmt: skip
    else:
        row_max, row_sum, total = add_seen_blocks(
            row_max, row_sum, total, low, high, query, source, rows, start, stop, mask, dense, bias, dropout, scale,
            softcap, DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, FOLDED, PRECISION, PACK, HOIST,
        )  # fmt: skip
    return row_max, row_sum, total


# ---- states in device memory ----


@triton.jit
def load_state(states, slot, count, HEIGHT: tl.constexpr, PADDED_V: tl.constexpr):
    """The state of the first `count` rows of a slot; the others' is empty."""
    row = tl.cast(slot, tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    inside = tl.arange(0, HEIGHT) < count
    row_max = tl.load(states.row_max + row, mask=inside, other=float("-inf"))
    row_sum = tl.load(states.row_sum + row, mask=inside, other=0.0)
    at = states.total + row[:, None] * PADDED_V + tl.arange(0, PADDED_V)[None, :]
    return row_max, row_sum, tl.load(at, mask=inside[:, None], other=0.0)


@triton.jit
def store_state(states, slot, row_max, row_sum, total, HEIGHT: tl.constexpr, PADDED_V: tl.constexpr):
    row = tl.cast(slot, tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    tl.store(states.row_max + row, row_max)
    tl.store(states.row_sum + row, row_sum)
    tl.store(states.total + row[:, None] * PADDED_V + tl.arange(0, PADDED_V)[None, :], total)


@triton.jit
def write_rows(
    out, lse, place, rows, row_max, row_sum, total, keep_scale,
    DIM_V: tl.constexpr, PADDED_V: tl.constexpr, FOLDED: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Output and lse of a tile's rows."""
    empty = row_sum == 0.0
    out_rows = tl.where(empty[:, None], 0.0, total / tl.where(empty, 1.0, row_sum)[:, None] * keep_scale)
    batch = place.batch * 0 if VARLEN else place.batch
    row = (place.first_q + rows.query).to(tl.int64)
    head = tl.cast(rows.head, tl.int64)
    at = tl.cast(batch, tl.int64) * out.batch + head * out.head + row * out.row
    store_rows(out.data, at, 1, rows.exists, out_rows, DIM_V, PADDED_V)
    if lse.data is not None:
        natural = row_max * LN2 if FOLDED else row_max
        found = tl.where(empty, float("-inf"), natural + tl.log(tl.where(empty, 1.0, row_sum)))
        at = tl.cast(batch, tl.int64) * lse.batch + head * lse.head + row * lse.row
        tl.store(lse.data + at, found, mask=rows.exists)


# ---- kernels ----


@triton.jit
def found_again(shape, place, rows, slot, tiles, pack, HEIGHT: tl.constexpr, PACK: tl.constexpr):
    """The place and rows of a tile, made anew from its number: what is kept since the start costs registers in between.

    The number must come with a sum of 0 of which the compiler does not know it (`chunk >> 30`). Packed sequences would
    have to be searched for: they keep theirs.
    """
    if shape.cu_q is not None:
        return place, rows
    else:
        again = query_place(shape, slot, tiles, pack, HEIGHT)
        return again, tile_rows(again, pack, HEIGHT, PACK)


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def attention_forward(
    out, lse, states, query, segments, lengths, offsets, mask, bias, dropout, shape, scale, softcap,
    programs, tiles, pack, chunks,
    DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr, HEIGHT: tl.constexpr,
    KEYS: tl.constexpr, CHUNK: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, FOLDED: tl.constexpr,
    PACK: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr, HOIST: tl.constexpr,
):  # fmt: skip
    """One tile of rows (SPLIT: over one chunk of keys); `states` of None: the keys are a single chunk.

    HOIST: the loops over blocks keep what does not change in them in registers.
    """
    VARLEN: tl.constexpr = shape.cu_q is not None
    UNIT: tl.constexpr = 1.0 if FOLDED else LOG2E
    program = tl.program_id(0)
    place = query_place(shape, program % programs if SPLIT else program, tiles, pack, HEIGHT)
    rows = tile_rows(place, pack, HEIGHT, PACK)
    row = (place.first_q + rows.query).to(tl.int64)
    if PACK:
        row_at = (rows.head - place.head).to(tl.int64) * query.head + row * query.row
    else:
        row_at = row * query.row
    batch = place.batch * 0 if VARLEN else place.batch
    query_rows = load_rows(at_head(query, 0, batch, place.head), row_at, 1, rows.exists, DIM, PADDED)
    if states is None or SPLIT:
        chunk = program // programs
        row_max, row_sum, total = chunk_state(
            query_rows, segments, lengths, offsets, mask, bias, dropout, shape, place, rows, chunk, scale, softcap,
            DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, CHUNK, BIAS, SOFTCAP, FOLDED, PRECISION, PACK, HOIST,
        )  # fmt: skip
        if SPLIT:
            store_state(states, program, row_max, row_sum, total, HEIGHT, PADDED_V)
        else:
            place, rows = found_again(shape, place, rows, program + (chunks >> 30), tiles, pack, HEIGHT, PACK)
            write_rows(
                out, lse, place, rows, row_max, row_sum, total, dropout.keep_scale, DIM_V, PADDED_V, FOLDED, VARLEN
            )
    else:
        if VARLEN:
            chunks = tl.where(place.len_q > 0, tl.cdiv(place.len_k, CHUNK), 0)
        last = tl.maximum(chunks, 1) - 1
        # What does not change from chunk to chunk is found anew: registers do not hold it beside a state.
        for chunk in tl.range(last + 1, disable_licm=True):
            slot = program + (chunk >> 30)
            own, own_rows = found_again(shape, place, rows, slot, tiles, pack, HEIGHT, PACK)
            row_max, row_sum, total = chunk_state(
                query_rows, segments, lengths, offsets, mask, bias, dropout, shape, own, own_rows, chunk, scale,
                softcap, DIM, DIM_V, PADDED, PADDED_V, HEIGHT, KEYS, CHUNK, BIAS, SOFTCAP, FOLDED, PRECISION, PACK,
                HOIST,
            )  # fmt: skip
            tl.debug_barrier()  # the state before has been stored by all threads
            max_before, sum_before, total_before = load_state(states, slot, chunk * HEIGHT, HEIGHT, PADDED_V)
            row_max, row_sum, total = merge(max_before, sum_before, total_before, row_max, row_sum, total, UNIT)
            if chunk < last:
                tl.debug_barrier()  # and been read
                store_state(states, slot, row_max, row_sum, total, HEIGHT, PADDED_V)
            else:
                own, own_rows = found_again(shape, place, rows, slot + (last >> 30), tiles, pack, HEIGHT, PACK)
                write_rows(
                    out, lse, own, own_rows, row_max, row_sum, total, dropout.keep_scale, DIM_V, PADDED_V, FOLDED,
                    VARLEN,
                )  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def attention_merge(
    out, lse, states, shape, dropout, programs, tiles, pack, chunks,
    DIM_V: tl.constexpr, PADDED_V: tl.constexpr, HEIGHT: tl.constexpr, CHUNK: tl.constexpr, FOLDED: tl.constexpr,
    PACK: tl.constexpr,
):  # fmt: skip
    """The states of a tile's chunks, merged in order."""
    VARLEN: tl.constexpr = shape.cu_q is not None
    UNIT: tl.constexpr = 1.0 if FOLDED else LOG2E
    program = tl.program_id(0)
    place = query_place(shape, program, tiles, pack, HEIGHT)
    rows = tile_rows(place, pack, HEIGHT, PACK)
    row_max = tl.full((HEIGHT,), float("-inf"), tl.float32)
    row_sum = tl.zeros((HEIGHT,), tl.float32)
    total = tl.zeros((HEIGHT, PADDED_V), tl.float32)
    if VARLEN:
        chunks = tl.where(place.len_q > 0, tl.cdiv(place.len_k, CHUNK), 0)
    for chunk in range(chunks):
        max_own, sum_own, total_own = load_state(states, chunk * programs + program, HEIGHT, HEIGHT, PADDED_V)
        row_max, row_sum, total = merge(row_max, row_sum, total, max_own, sum_own, total_own, UNIT)
    write_rows(out, lse, place, rows, row_max, row_sum, total, dropout.keep_scale, DIM_V, PADDED_V, FOLDED, VARLEN)
