"""Flash attention as a textbook has it, for comparison: no mask, no tails, no lse, products fused with sums.

    out = softmax(scale q k^T) v

A program owns TILE rows of a head and walks all keys in blocks of BLOCK. Lengths are multiples of both.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .ahead import Launch

LOG2E = tl.constexpr(1.4426950408889634)
SHAPES = {64: (128, 64, 4, 3), 128: (128, 64, 8, 3), 256: (64, 32, 8, 2)}
"""By head dim: rows, keys, warps and stages that are in wide use."""


@triton.jit
def textbook_attention(
    out, query, key, value, rows, keys, scale, TILE: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr
):
    head, feature = tl.program_id(1).to(tl.int64), tl.arange(0, DIM)
    row, column = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, BLOCK)
    place = (head * rows + row)[:, None] * DIM + feature[None, :]
    q = tl.load(query + place)
    row_max = tl.full((TILE,), float("-inf"), tl.float32)
    row_sum = tl.zeros((TILE,), tl.float32)
    total = tl.zeros((TILE, DIM), tl.float32)
    source = head * keys * DIM + column[:, None] * DIM + feature[None, :]
    for _ in range(0, keys, BLOCK):
        logits = tl.dot(q, tl.trans(tl.load(key + source))) * (scale * LOG2E)
        new_max = tl.maximum(row_max, tl.max(logits, 1))
        weights = tl.exp2(logits - new_max[:, None])
        decay = tl.exp2(row_max - new_max)
        row_sum = row_sum * decay + tl.sum(weights, 1)
        v = tl.load(value + source)
        total = tl.dot(weights.to(v.dtype), v, total * decay[:, None])
        row_max = new_max
        source += BLOCK * DIM
    tl.store(out + place, (total / row_sum[:, None]).to(out.dtype.element_ty))


@triton.jit
def textbook_described(
    out, query, key, value, rows, keys, scale, TILE: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr
):
    """The same, with blocks of keys and values fetched by tensor descriptors (TMA)."""
    head, feature = tl.program_id(1).to(tl.int64), tl.arange(0, DIM)
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    place = (head * rows + row)[:, None] * DIM + feature[None, :]
    q = tl.load(query + place)
    row_max = tl.full((TILE,), float("-inf"), tl.float32)
    row_sum = tl.zeros((TILE,), tl.float32)
    total = tl.zeros((TILE, DIM), tl.float32)
    of_head = head * keys * DIM
    key_blocks = tl.make_tensor_descriptor(key + of_head, [keys, DIM], [DIM, 1], [BLOCK, DIM])
    value_blocks = tl.make_tensor_descriptor(value + of_head, [keys, DIM], [DIM, 1], [BLOCK, DIM])
    for first in range(0, keys, BLOCK):
        logits = tl.dot(q, tl.trans(key_blocks.load([first, 0]))) * (scale * LOG2E)
        new_max = tl.maximum(row_max, tl.max(logits, 1))
        weights = tl.exp2(logits - new_max[:, None])
        decay = tl.exp2(row_max - new_max)
        row_sum = row_sum * decay + tl.sum(weights, 1)
        v = value_blocks.load([first, 0])
        total = tl.dot(weights.to(v.dtype), v, total * decay[:, None])
        row_max = new_max
    tl.store(out + place, (total / row_sum[:, None]).to(out.dtype.element_ty))


def textbook(
    dtype: torch.dtype, dim: int, shape: tuple[int, ...] | None = None, kernel: Any = textbook_attention
) -> Launch:
    """A launch with rows, keys, warps and stages in wide use, or with those of another kernel."""
    rows, keys, warps, stages = shape or SHAPES[dim]
    query = torch.empty(1, 4, 512, dim, dtype=dtype, device="meta")
    key = torch.empty(1, 4, 1024, dim, dtype=dtype, device="meta")
    options = {"TILE": rows, "BLOCK": keys, "DIM": dim, "num_warps": warps, "num_stages": stages}
    return Launch(kernel, (4, 4), (query, query, key, key, 512, 1024, 0.125), options)
