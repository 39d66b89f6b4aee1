"""How much attention has to do: visible pairs, products, bytes that must move, tiles that must be visited.

Conventions, the same for every provider of a case:

- A pair is a query row and a key it sees, per head. Only these count, so a mask that hides half of the pairs halves
  the operations, and a provider that computes hidden pairs as well shows a lower rate.
- Forward is 2 products per pair, q.k over D and p.v over Dv; forward+backward is 7: those, and q.k again, do.v, p.do,
  ds.k, ds.q. A multiply-add is 2 operations. The softmax is not counted.
- Bytes are those that no implementation can avoid: operands read once, results written once (forward+backward: the
  operands and the output read again, its gradient read, the gradients written). A bias counts in the size it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attention.inputs import Inputs
from bench.attention.problems import Problem
from bench.work import Work

TILE = 64


@dataclass(frozen=True)
class PairWork(Work):
    """Counts of one case of attention."""

    pairs: int
    """Visible (query row, key) pairs, summed over batch and heads."""
    tile_share: float
    """Tiles of 64 x 64 with a visible pair, of all tiles."""


def facts(problem: Problem, work: PairWork) -> dict[str, Any]:
    """What a record says beside operations and bytes."""
    return {
        "q_len": problem.q_len, "k_len": problem.k_len, "pairs": work.pairs, "tile share": work.tile_share,
    }  # fmt: skip


def work_of(inputs: Inputs, backward: bool) -> PairWork:
    """Counts the work of one call."""
    query, dim, dim_v = inputs.queries[0], inputs.queries[0].shape[-1], inputs.values[0].shape[-1]
    heads = query.shape[-2] if inputs.function == "varlen" else query.shape[1]
    pairs, visited, tiles = (heads * count for count in _counts(inputs))
    flops = 2 * pairs * ((4 * dim + 3 * dim_v) if backward else (dim + dim_v))
    operands = sum(leaf.nbytes for leaf in inputs.leaves().values())
    if inputs.function == "varlen":
        rows = query.shape[0]
    else:
        rows = _batch(inputs) * sum(each.shape[2] for each in inputs.queries)
    out = rows * heads * dim_v * query.element_size()
    return PairWork(flops, 3 * operands + 3 * out if backward else operands + out, pairs, visited / tiles)


def visible(inputs: Inputs) -> Tensor | None:
    """The mask of a padded call as (B, 1, Lq, Lk) bool; None: every pair is visible."""
    if inputs.mask is None:
        return None
    lengths = [sum(x.shape[2] for x in tensors) for tensors in (inputs.queries, inputs.keys)]
    segments = [key.shape[2] for key in inputs.keys]
    found = inputs.mask.to_dense(_batch(inputs), 1, lengths[0], segments if len(segments) > 1 else lengths[1])
    return found.expand(_batch(inputs), 1, *lengths)


def lengths_of(inputs: Inputs) -> tuple[list[int], list[int]]:
    """Lengths of the packed sequences of a varlen call."""
    assert inputs.cu_seqlens_q is not None and inputs.cu_seqlens_k is not None
    return inputs.cu_seqlens_q.diff().tolist(), inputs.cu_seqlens_k.diff().tolist()


def _counts(inputs: Inputs) -> tuple[int, int, int]:
    """Visible pairs, tiles with one and all tiles of one head. Packed sequences count against their padded batch."""
    if inputs.function == "varlen":
        assert inputs.mask is None, "no case is packed and masked"
        q_lens, k_lens = lengths_of(inputs)
        pairs = sum(q * k for q, k in zip(q_lens, k_lens, strict=True))
        visited = sum(_tiles(q) * _tiles(k) for q, k in zip(q_lens, k_lens, strict=True))
        return pairs, visited, len(q_lens) * _tiles(max(q_lens)) * _tiles(max(k_lens))
    rows, keys = (sum(x.shape[2] for x in tensors) for tensors in (inputs.queries, inputs.keys))
    batch = _batch(inputs)
    tiles = batch * _tiles(rows) * _tiles(keys)
    mask = visible(inputs)
    if mask is None:
        return batch * rows * keys, tiles, tiles
    padded = F.pad(mask, (0, -keys % TILE, 0, -rows % TILE))
    blocks = padded.unflatten(3, (-1, TILE)).unflatten(2, (-1, TILE))
    return int(mask.sum()), int(blocks.any(-1).any(3).sum()), tiles


def _batch(inputs: Inputs) -> int:
    return max(x.shape[0] for x in (*inputs.queries, *inputs.keys, *inputs.values))


def _tiles(length: int) -> int:
    return -(-length // TILE)


def element_size(dtype: str) -> int:
    """Bytes of one element."""
    return getattr(torch, dtype).itemsize
