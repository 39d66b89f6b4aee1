"""Philox4x32-10 in torch: the twin of csrc/core/philox.h, and the dropout bits drawn from it.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Random123).
A 32-bit word lives in the low half of an int64, because torch has no full set of uint32 operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the 64-bit product.

    Two 48-bit products instead of one of 64 bits: the latter overflows int64, which is undefined in the C++
    that torch.compile writes.
    """
    low = (word & 0xFFFF) * multiplier
    high = (word >> 16) * multiplier + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four random words of Philox4x32-10.

    Args:
        counter: four words, int64 tensors with values in [0, 2**32) that broadcast against each other.
        key: two words of the same kind.

    Returns:
        Four int64 tensors of the broadcast shape, values in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def _key(seed: Tensor) -> tuple[Tensor, Tensor]:
    return seed & WORD, (seed >> 32) & WORD


def dropout_threshold(dropout_p: float) -> int:
    """A pair is dropped iff its word is below this number, round(p * 2**32); p = 1 drops every pair."""
    return round(dropout_p * 2**32)


def dropout_keep(
    seed: Tensor,
    dropout_p: float,
    batch: int,
    heads: int,
    q_len: int,
    k_len: int,
    offsets: Sequence[int] = (0, 0, 0, 0),
) -> Tensor:
    """Which attention probabilities survive dropout.

    Pair (b, h, i, j) has the counter (j // 4, i, h, b) and word j % 4, each index after adding its offset.

    Args:
        seed: int64 tensor of shape (); its low 32 bits are key word 0, its high 32 bits key word 1.
        dropout_p: probability of being dropped, in [0, 1].
        offsets: [batch, head, query, key], added to the indices, so that a shard draws its part of the whole's bits.

    Returns:
        bool tensor (batch, heads, q_len, k_len), True where kept.
    """
    b0, h0, q0, k0 = offsets

    def positions(first: int, count: int, axis: int) -> Tensor:
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        return (torch.arange(count, device=seed.device) + first).view(shape) & WORD

    first_group, skipped = k0 // 4, k0 % 4
    groups = (skipped + k_len + 3) // 4
    counter = (positions(first_group, groups, 3), positions(q0, q_len, 2), positions(h0, heads, 1))
    words = philox4x32((*counter, positions(b0, batch, 0)), _key(seed))
    keep = torch.stack([word >= dropout_threshold(dropout_p) for word in words], dim=-1)
    return keep.flatten(-2)[..., skipped : skipped + k_len]


def dropout_keep_varlen(
    seed: Tensor,
    dropout_p: float,
    heads: int,
    sequence: Tensor,
    local_query: Tensor,
    local_key: Tensor,
    offsets: Sequence[int] = (0, 0, 0, 0),
) -> Tensor:
    """`dropout_keep` of packed sequences: the sequence takes the place of the batch, indices are local to it.

    Args:
        sequence: (Tq,) the sequence of each row. Pairs across sequences get bits that mean nothing.
        local_query: (Tq,) each row's index in its sequence.
        local_key: (Tk,) each column's index in its sequence.

    Returns:
        bool tensor (1, heads, Tq, Tk), True where kept.
    """
    b0, h0, q0, k0 = offsets
    key = (local_key.long() + k0).view(1, 1, 1, -1) & WORD
    query = (local_query.long() + q0).view(1, 1, -1, 1) & WORD
    head = (torch.arange(heads, device=seed.device) + h0).view(1, -1, 1, 1) & WORD
    batch = (sequence.long() + b0).view(1, 1, -1, 1) & WORD
    words = philox4x32((key >> 2, query, head, batch), _key(seed))
    lane = key & 3
    word = torch.where(lane < 2, torch.where(lane == 0, words[0], words[1]), torch.where(lane == 2, words[2], words[3]))
    return word >= dropout_threshold(dropout_p)
