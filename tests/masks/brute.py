"""Masks beside what they mean, as predicates of one pair: nothing here uses the package but its constructors.

A predicate takes (b, h, i, j, q_len, k_len) with j on the whole key axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from mmkernels.mask import Mask

Predicate = Callable[[int, int, int, int, int, int], bool]
ALIGN = st.sampled_from(["top_left", "bottom_right"])


class Shape(NamedTuple):
    batch: int
    heads: int
    q_len: int
    k_lens: list[int]

    @property
    def k_len(self) -> int:
        return sum(self.k_lens)


def table(predicate: Predicate, shape: Shape) -> torch.Tensor:
    """The bool tensor (B, H, Lq, Lk) of a predicate, pair by pair."""
    batch, heads, q_len, k_len = shape.batch, shape.heads, shape.q_len, shape.k_len
    out = torch.zeros(batch, heads, q_len, k_len, dtype=torch.bool)
    for b in range(batch):
        for h in range(heads):
            for i in range(q_len):
                for j in range(k_len):
                    out[b, h, i, j] = predicate(b, h, i, j, q_len, k_len)
    return out


def unmasked_empty_rows(visible: torch.Tensor) -> torch.Tensor:
    """Rows that see nothing see everything."""
    out = visible.clone()
    for row in out.view(-1, out.shape[-1]) if out.numel() else []:
        if not any(row.tolist()):
            row[:] = True
    return out


def shifted(i: int, align: str, q_len: int, k_len: int) -> int:
    return i + (k_len - q_len if align == "bottom_right" else 0)


@st.composite
def shapes(draw: st.DrawFn, segments: int | None = None) -> Shape:
    count = segments or draw(st.integers(1, 3))
    k_lens = [draw(st.integers(0, 5)) for _ in range(count)]
    return Shape(draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 6)), k_lens)


def integers(draw: st.DrawFn, low: int, high: int, *size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of drawn integers in [low, high]."""
    count = int(torch.tensor(size).prod()) if size else 1
    values = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    return torch.tensor(values, dtype=dtype or draw(st.sampled_from([torch.int32, torch.int64]))).view(size)


def axes(draw: st.DrawFn, *size: int) -> list[int]:
    """A size that broadcasts to the given one."""
    return [draw(st.sampled_from([1, n])) if n else n for n in size]


def causal(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    align = draw(ALIGN)
    return Mask.causal(align), lambda b, h, i, j, q_len, k_len: j <= shifted(i, align, q_len, k_len)


def window(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    align = draw(ALIGN)
    left, right = (draw(st.none() | st.integers(0, 4)) for _ in range(2))

    def predicate(b: int, h: int, i: int, j: int, q_len: int, k_len: int) -> bool:
        centre = shifted(i, align, q_len, k_len)
        return (left is None or j >= centre - left) and (right is None or j <= centre + right)

    return Mask.window(left, right, align), predicate


def key_lengths(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    lengths = integers(draw, 0, shape.k_len + 1, draw(st.sampled_from([1, shape.batch])))
    return Mask.key_lengths(lengths), lambda b, h, i, j, *_: j < int(lengths[b % len(lengths)])


def key_lengths_per_segment(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    lengths = [None if draw(st.booleans()) else integers(draw, 0, n + 1, shape.batch) for n in shape.k_lens]

    def predicate(b: int, h: int, i: int, j: int, *_: int) -> bool:
        segment, local = locate(j, shape.k_lens)
        entry = lengths[segment]
        return entry is None or local < int(entry[b])

    return Mask.key_lengths(lengths), predicate


def locate(j: int, k_lens: list[int]) -> tuple[int, int]:
    """Segment and index in it of a key."""
    for segment, length in enumerate(k_lens):
        if j < length:
            return segment, j
        j -= length
    raise AssertionError(j)


def prefix(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    align, lengths = draw(ALIGN), integers(draw, 0, shape.k_len + 1, shape.batch)

    def predicate(b: int, h: int, i: int, j: int, q_len: int, k_len: int) -> bool:
        return j <= shifted(i, align, q_len, k_len) or j < int(lengths[b])

    return Mask.prefix(lengths, align), predicate


def packed(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    align, is_causal, count = draw(ALIGN), draw(st.booleans()), draw(st.integers(0, 3))

    def ends(limit: int) -> list[int]:
        return sorted(draw(st.lists(st.integers(0, limit), min_size=count + 1, max_size=count + 1)))

    cu_q, cu_k = ends(shape.q_len), ends(shape.k_len)

    def predicate(b: int, h: int, i: int, j: int, *_: int) -> bool:
        for n in range(count):
            if cu_q[n] <= i < cu_q[n + 1] and cu_k[n] <= j < cu_k[n + 1]:
                row = shifted(i - cu_q[n], align, cu_q[n + 1] - cu_q[n], cu_k[n + 1] - cu_k[n])
                return not is_causal or j - cu_k[n] <= row
        return False

    return Mask.packed(torch.tensor(cu_q), torch.tensor(cu_k), is_causal, align), predicate


def media(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    tokens = draw(st.integers(1, 3))
    count = shape.k_len // tokens
    size = axes(draw, shape.batch, shape.q_len)
    if draw(st.booleans()):
        item = integers(draw, -1, count - 1, *size)
        first = last = item
    else:
        item = integers(draw, -1, count - 1, *size, 2)
        first, last = item.unbind(-1)

    def predicate(b: int, h: int, i: int, j: int, *_: int) -> bool:
        place = (b % size[0], i % size[1])
        if int(first[place]) == -1 or int(last[place]) == -1:
            return False
        return int(first[place]) <= j // tokens <= int(last[place])

    return Mask.media(item, tokens), predicate


def intervals(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    bounds = []
    for _ in range(2):
        size = axes(draw, shape.batch, shape.heads, shape.q_len)
        bounds.append(integers(draw, 0, shape.k_len, *size))

    def predicate(b: int, h: int, i: int, j: int, *_: int) -> bool:
        start, stop = (int(t[b % t.shape[0], h % t.shape[1], i % t.shape[2]]) for t in bounds)
        return start <= j < stop

    return Mask.intervals(*bounds), predicate


def intervals_per_segment(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    rows = [shape.batch, shape.heads, shape.q_len]
    bounds = [torch.stack([integers(draw, 0, n, *rows, dtype=torch.int32) for n in shape.k_lens]) for _ in range(2)]

    def predicate(b: int, h: int, i: int, j: int, *_: int) -> bool:
        segment, local = locate(j, shape.k_lens)
        return int(bounds[0][segment, b, h, i]) <= local < int(bounds[1][segment, b, h, i])

    return Mask.intervals(*bounds), predicate


def dense(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    size = axes(draw, shape.batch, shape.heads, shape.q_len, shape.k_len)
    # Mostly True, mostly False, or mixed: full, interval, empty and gappy rows all occur.
    threshold = draw(st.sampled_from([0, 1, 5, 9, 10]))
    bits = integers(draw, 0, 9, *size) < threshold
    if draw(st.booleans()):
        bits = bits.expand(shape.batch, shape.heads, shape.q_len, shape.k_len)
    place = tuple(bits.shape)

    def predicate(b: int, h: int, i: int, j: int, *_: int) -> bool:
        return bool(bits[b % place[0], h % place[1], i % place[2], j % place[3]])

    return Mask.dense(bits), predicate


def segments(draw: st.DrawFn, shape: Shape) -> tuple[Mask, Predicate]:
    entries = []
    for length in shape.k_lens:
        own = shape._replace(k_lens=[length])
        entries.append(None if draw(st.booleans()) else draw(st.sampled_from(SIMPLE))(draw, own))

    def predicate(b: int, h: int, i: int, j: int, q_len: int, k_len: int) -> bool:
        segment, local = locate(j, shape.k_lens)
        entry = entries[segment]
        return entry is None or entry[1](b, h, i, local, q_len, shape.k_lens[segment])

    return Mask.segments([None if entry is None else entry[0] for entry in entries]), predicate


SIMPLE = [causal, window, key_lengths, prefix, packed, media, intervals, dense]
EVERY = [*SIMPLE, key_lengths_per_segment, intervals_per_segment, segments]
PER_SEQUENCE = [causal, window, key_lengths, prefix]


@st.composite
def masks(draw: st.DrawFn, shape: Shape, makers: list = EVERY, parts: int = 2) -> tuple[Mask, Predicate]:
    """The intersection of one to `parts` random conditions."""
    made = [draw(st.sampled_from(makers))(draw, shape) for _ in range(draw(st.integers(1, parts)))]
    mask = made[0][0]
    for other, _ in made[1:]:
        mask = mask & other
    return mask, lambda *pair: all(predicate(*pair) for _, predicate in made)
