"""Gradient of a part of the bias in Triton: the gradients of biased logits, summed over all pairs that read an element.

A program owns a batch entry and head of the gradient (or all, where the bias is broadcast), a tile of rows (or all)
and a window of KEYS entries, which are keys, places of a table or coordinates of a grid. It visits every block of pairs
that reads one of them, in a fixed order: batch entries, heads, tiles of rows, blocks of keys. So every element is
written once, by one program, whatever the kind of bias. No sum mixes pairs of different elements: a NaN stays where it
belongs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.attention.triton_kernels.backward_query import block_gradients
from mmkernels.ops.attention.triton_kernels.forward import find_chunk
from mmkernels.ops.attention.triton_kernels.pairs import (
    DENSE,
    RELATIVE,
    Place,
    at_head,
    intervals,
    reads_dense,
    sequence_rows,
    source_of,
    tile_rows,
)
from mmkernels.ops.attention.triton_kernels.statistics import load_statistics
from mmkernels.triton_blocks import load_rows

NOT_SPECIALISED = (
    "lengths", "offsets", "dropout", "shape", "scale", "softcap",
    "batches", "heads", "tiles", "windows", "blocks", "entries", "rows_of_grad",
)  # fmt: skip


@triton.jit
def touches(
    bias, window, row, first, last, HEIGHT: tl.constexpr, KEYS: tl.constexpr, BIAS: tl.constexpr,
    PART: tl.constexpr, KEYED: tl.constexpr,
):  # fmt: skip
    """Whether rows from `row` on and the keys [first, last] may have a pair that reads an entry of the window."""
    if KEYED or BIAS == DENSE:
        found = last >= first
    elif BIAS == RELATIVE:
        low, high = first - (row + HEIGHT - 1) + bias.zero, last - row + bias.zero
        found = (low < window + KEYS) & (high >= window)
    else:
        width = tl.maximum(bias.size[1][1], 1)
        if PART == 0:
            found = (first // width < window + KEYS) & (last // width >= window)
        else:
            found = window < width
    return found


@triton.jit
def entry_sums(
    gradients, bias, window, rows, first, HEIGHT: tl.constexpr, KEYS: tl.constexpr, BIAS: tl.constexpr,
    PART: tl.constexpr, KEYED: tl.constexpr,
):  # fmt: skip
    """Of each row, the sums over a block's keys, the first of them `first`, that read each entry of the window."""
    entry = window + tl.arange(0, KEYS)
    if KEYED:
        found = gradients
    elif BIAS == DENSE:  # every key reads the only entry
        found = tl.where((entry == 0)[None, :], tl.sum(gradients, 1)[:, None], 0.0)
    elif BIAS == RELATIVE:
        found = shifted(gradients, entry[None, :] + rows.query[:, None] - bias.zero - first, KEYS)
    else:
        width = tl.maximum(bias.size[1][1], 1)
        # The first row of the grid always is there. Were it the loop's too, the compiler would move the products that
        # make the gradients behind the loop's condition, and keep what they multiply in registers until then.
        across = first // width
        found = sums_across(gradients, entry, rows, first, across, width, KEYS, PART)
        for later in range(across + 1, (first + KEYS - 1) // width + 1):
            found += sums_across(gradients, entry, rows, first, later, width, KEYS, PART)
    return found


@triton.jit
def sums_across(gradients, entry, rows, first, across, width, KEYS: tl.constexpr, PART: tl.constexpr):
    """`entry_sums` over a block's keys in row `across` of a grid of keys, `width` of them a row."""
    if PART == 0:
        key = first + tl.arange(0, KEYS)
        total = tl.sum(tl.where((key // width == across)[None, :], gradients, 0.0), 1)
        return tl.where((entry == across)[None, :], total[:, None], 0.0)
    else:
        place = (entry + across * width - first)[None, :] + rows.query[:, None] * 0
        return tl.where((entry < width)[None, :], shifted(gradients, place, KEYS), 0.0)


@triton.jit
def shifted(tile, place, COUNT: tl.constexpr):
    """`tile[r, place[r, c]]`, 0 where there is no such column."""
    inside = (place >= 0) & (place < COUNT)
    return tl.where(inside, tl.gather(tile, tl.where(inside, place, 0), 1), 0.0)


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def attention_grad_bias(
    grad_bias, grad_out, statistics, query, segments, lengths, offsets, mask, bias, dropout, shape, scale, softcap,
    batches, heads, tiles, windows, blocks, entries, rows_of_grad,
    DIM: tl.constexpr, DIM_V: tl.constexpr, PADDED: tl.constexpr, PADDED_V: tl.constexpr, HEIGHT: tl.constexpr,
    KEYS: tl.constexpr, BIAS: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr, PART: tl.constexpr,
    KEYED: tl.constexpr, SUMS_ROWS: tl.constexpr,
):  # fmt: skip
    """One window of a gradient (batches, heads, rows_of_grad, entries), whose rows are `tiles` tiles.

    KEYED: the window is a block of keys; SUMS_ROWS: the gradient has no row axis.
    """
    VARLEN: tl.constexpr = shape.cu_q is not None
    program = tl.program_id(0)
    number = program % windows
    tile = program // windows % tiles
    head_at = program // windows // tiles % heads
    batch_at = program // windows // tiles // heads
    window = number * KEYS
    dense = reads_dense(mask)
    total = tl.zeros((HEIGHT, KEYS), tl.float32)
    sums_batches, sums_heads = batches < shape.batch, heads < shape.heads
    for batch in range(tl.where(sums_batches, 0, batch_at), tl.where(sums_batches, shape.batch, batch_at + 1)):
        if VARLEN:
            first_q, len_q = sequence_rows(shape.cu_q, batch, shape.len_q)
            first_k, len_k = sequence_rows(shape.cu_k, batch, shape.len_k)
            own_blocks = tl.cdiv(len_k, KEYS)
        else:
            first_q, len_q, first_k, len_k = number * 0, shape.len_q, number * 0, shape.len_k
            own_blocks = blocks
        for head in range(tl.where(sums_heads, 0, head_at), tl.where(sums_heads, shape.heads, head_at + 1)):
            first_tile = 0 if SUMS_ROWS else tile
            last_tile = tl.cdiv(len_q, HEIGHT)
            if not SUMS_ROWS:
                last_tile = tl.minimum(tile + 1, last_tile)
            for row_tile in range(first_tile, last_tile):
                place = Place(batch, head, row_tile, first_q, len_q, first_k, len_k)
                rows = tile_rows(place, 1, HEIGHT, False)
                row = (first_q + rows.query).to(tl.int64)
                own = batch * 0 if VARLEN else batch
                query_tile = load_rows(at_head(query, 0, own, head), row * query.row, 1, rows.exists, DIM, PADDED)
                grad_tile = load_rows(
                    at_head(grad_out, 0, own, head), row * grad_out.row, 1, rows.exists, DIM_V, PADDED_V
                )
                found = load_statistics(statistics, shape, place, rows)
                block = number if KEYED else 0
                last_block = tl.minimum(number + 1, own_blocks) if KEYED else own_blocks
                for at in range(block, last_block):
                    segment, first = find_chunk(lengths, shape, len_k, at, KEYS)
                    source = source_of(
                        segments, lengths, offsets, shape, segment, batch, head // shape.group, first_k, len_k
                    )
                    last = tl.minimum(first + KEYS, source.length) - 1
                    if touches(
                        bias, window, row_tile * HEIGHT, source.offset + first, source.offset + last, HEIGHT, KEYS,
                        BIAS, PART, KEYED,
                    ):  # fmt: skip
                        start, stop = intervals(mask, source, rows, first_q, VARLEN)
                        if tl.max(((start < stop) & (start <= last) & (stop > first)).to(tl.int32)) > 0:
                            local = first + tl.arange(0, KEYS)
                            keys = load_rows(source.key_data, local, source.key_row, local < source.length, DIM, PADDED)
                            gradients, _, _ = block_gradients(
                                query_tile, grad_tile, keys, source, first, rows, start, stop, found, mask, dense,
                                bias, dropout, scale, softcap, DIM_V, PADDED_V, HEIGHT, KEYS, BIAS, SOFTCAP, False,
                                PRECISION, False,
                            )  # fmt: skip
                            total += entry_sums(
                                gradients, bias, window, rows, source.offset + first, HEIGHT, KEYS, BIAS, PART, KEYED
                            )
    if KEYED:
        segment, first = find_chunk(lengths, shape, shape.len_k, number, KEYS)
        window = first
        entry = first + tl.arange(0, KEYS)
        if VARLEN:
            inside = entry < entries
        else:
            source = source_of(segments, lengths, offsets, shape, segment, 0, 0, 0, 0)
            inside = entry < source.length
            entry += source.offset
    else:
        entry = window + tl.arange(0, KEYS)
        inside = entry < entries
    to = grad_bias + (batch_at.to(tl.int64) * heads + head_at) * rows_of_grad * entries
    if SUMS_ROWS:
        tl.store(to + entry, tl.sum(total, 0).to(grad_bias.dtype.element_ty), mask=inside)
    else:
        row = tile * HEIGHT + tl.arange(0, HEIGHT)
        at = to + row.to(tl.int64)[:, None] * entries + entry[None, :]
        tl.store(at, total.to(grad_bias.dtype.element_ty), mask=(row < rows_of_grad)[:, None] & inside[None, :])
