"""Rows whose mask hides every key, made to see every key of their sequence, for kernels that do not look for them.

The answer depends on the mask's values, and a GPU's host must not read them: it is made of tensor operations alone.
Intervals cost memory O(Lq). A dense part costs a number for each of its elements, and becomes (B, H, Lq, Lk) only where
intervals decide which of its rows are empty.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmkernels.ops.attention.lowered import Lowered
from mmkernels.ops.attention.pairs import places


class _Keys(NamedTuple):
    """One segment's keys [offset, offset + length) of the concatenated axis, and those that each row's interval has."""

    offset: int
    length: int | Tensor
    first: Tensor
    last: Tensor

    def interval(self) -> tuple[Tensor, Tensor]:
        """The row's interval inside the segment."""
        first, last = self.first.clamp(min=0), self.last
        last = last.clamp(max=self.length) if isinstance(self.length, int) else torch.minimum(last, self.length)
        return first, torch.maximum(first, last)


def unmask_empty_rows(call: Lowered) -> Lowered:
    """The same call without ``unmask_empty_rows``, its mask changed instead.

    A row from which its mask hides every key gets ``start`` 0, ``stop`` the number of keys and ``visible`` true; a bias
    of -inf does not make a row empty. The call itself is returned where it asks for nothing.
    """
    if not call.unmask_empty_rows:
        return call
    call = call._replace(unmask_empty_rows=False)
    if call.query.numel() == 0:
        return call
    if call.cu_seqlens_q is None or call.cu_seqlens_k is None:
        return _unmask_padded(call)
    return _unmask_packed(call, call.cu_seqlens_q, call.cu_seqlens_k)


def _unmask_padded(call: Lowered) -> Lowered:
    start, stop, visible = call.start, call.stop, call.visible
    if start is None or stop is None:
        return call if visible is None else call._replace(visible=visible | ~visible.any(-1, keepdim=True))
    segments, offset = [], 0
    for index, key in enumerate(call.keys):
        first, last = (bound[index if bound.shape[0] > 1 else 0] for bound in (start, stop))
        segments.append(_Keys(offset, key.shape[2], first, last))
        offset += key.shape[2]
    rows = torch.broadcast_shapes(start.shape[1:], stop.shape[1:], visible.shape[:3] if visible is not None else ())
    batch, head, row = (torch.arange(size, device=start.device) for size in rows)
    empty = ~_sees_any(segments, visible, (batch[:, None, None], head[:, None], row))
    return call._replace(
        start=torch.stack([torch.where(empty, 0, keys.first) for keys in segments]),
        stop=torch.stack([torch.where(empty, keys.length, keys.last) for keys in segments]),
        visible=None if visible is None else visible | empty[..., None],
    )


def _unmask_packed(call: Lowered, cu_q: Tensor, cu_k: Tensor) -> Lowered:
    start, stop, visible, tokens = call.start, call.stop, call.visible, call.query.shape[0]
    if cu_q.shape[0] == 1:
        return call
    sequence, local, _ = places(cu_q, tokens)
    length = cu_k.diff().clamp(0, call.keys[0].shape[0])[sequence]
    if start is None or stop is None:
        first, last = torch.zeros_like(length)[None, None], length[None, None]
    else:
        first, last = start[0], stop[0]
    keys = _Keys(0, length, first, last)
    heads = torch.broadcast_shapes(first.shape[1:2], last.shape[1:2], visible.shape[1:2] if visible is not None else ())
    head = torch.arange(heads[0], device=cu_q.device)
    empty = ~_sees_any([keys], visible, (sequence, head[:, None], local)).expand(1, -1, tokens)
    if start is not None:
        call = call._replace(start=torch.where(empty, 0, first)[None], stop=torch.where(empty, length, last)[None])
    if visible is None:
        return call
    # From packed rows to (sequence, head, row); an axis of one row may stand for rows of any number, up to all tokens.
    row = torch.arange(visible.shape[2] if visible.shape[2] > 1 else tokens, device=cu_q.device)
    token = (cu_q[:-1, None] + row).clamp(0, tokens - 1).long()
    return call._replace(visible=visible | empty[0][head[:, None], token[:, None]][..., None])


def _sees_any(segments: list[_Keys], visible: Tensor | None, rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Whether a row sees a key; ``rows``: where it stands on the first three axes of ``visible``."""
    intervals = [keys.interval() for keys in segments]
    if visible is None or visible.shape[-1] == 1:
        found = torch.stack([last > first for first, last in intervals]).any(0)
        return found if visible is None else found & _at(visible, (*rows, torch.zeros_like(rows[2])))
    before = torch.nn.functional.pad(visible.cumsum(-1, dtype=torch.int32), (1, 0))  # visible keys before each key
    inside = [
        _at(before, (*rows, keys.offset + last)) - _at(before, (*rows, keys.offset + first))
        for keys, (first, last) in zip(segments, intervals, strict=True)
    ]
    return torch.stack(inside).any(0)


def _at(tensor: Tensor, index: tuple[Tensor, ...]) -> Tensor:
    """The elements at places that may lie beyond an axis, of size 1 because it broadcasts: its last one then."""
    return tensor[tuple(each.clamp(max=size - 1).long() for each, size in zip(index, tensor.shape, strict=True))]
