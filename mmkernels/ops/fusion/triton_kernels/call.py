"""Operands of concat_fusion as parameters of Triton kernels: where the rows of a space stand in each of them.

The leading axes of a call are a space of rows. An operand has a stride for each axis, 0 where it is broadcast; axes
that every operand walks through as one are one. What is absent is None, which the compiler knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

Strides = tuple[int, ...]


class Rows(NamedTuple):
    """An operand with `column` between neighbours of a row: 1, or 0 for a number that the whole row shares."""

    data: Tensor
    stride: Strides
    """Of the axes of the space, from the innermost on."""
    column: int


class Sources(NamedTuple):
    """A tuple with an entry for each source; `stride` has one for each axis, with an entry for each source."""

    data: tuple[Tensor, ...]
    width: tuple[int, ...]
    first: tuple[int, ...]
    """Of the source's features in the weight."""
    stride: tuple[Strides, ...]


class Shared(NamedTuple):
    """An operand of a sum over the rows that share an own row: strides of the own axes, and of those summed over."""

    data: Tensor
    own: Strides
    stride: Strides


def merged(sizes: Sequence[int], strides: Sequence[Strides]) -> tuple[Strides, list[Strides]]:
    """A space with as few axes as the operands' strides allow, at least one, from the innermost on."""
    kept: list[tuple[int, Strides]] = []
    for axis in reversed(range(len(sizes))):
        size, steps = sizes[axis], tuple(stride[axis] for stride in strides)
        if size == 1:
            continue
        if kept and all(step == inner * kept[-1][0] for step, inner in zip(steps, kept[-1][1], strict=True)):
            kept[-1] = (kept[-1][0] * size, kept[-1][1])
        else:
            kept.append((size, steps))
    if not kept:
        kept = [(1, tuple(0 for _ in strides))]
    return tuple(size for size, _ in kept), [tuple(steps[i] for _, steps in kept) for i in range(len(strides))]


def row_strides(tensor: Tensor, rows: Sequence[int]) -> Strides:
    """Of a tensor (..., columns) over the axes of a space that it broadcasts to."""
    return tensor.expand(*rows, tensor.shape[-1]).stride()[:-1] if tensor.dim() else (0,) * len(rows)


def column_stride(tensor: Tensor) -> int:
    """1, or 0 where the last axis has one number; such an operand has unit strides otherwise."""
    return int(tensor.dim() > 0 and tensor.shape[-1] != 1)


class Space:
    """The rows of a call, merged for a set of operands, None for those that are absent."""

    def __init__(self, rows: Sequence[int], operands: Sequence[Tensor | None]) -> None:
        found = [None if x is None else row_strides(x, rows) for x in operands]
        self.sizes, strides = merged(rows, [stride for stride in found if stride is not None])
        rest = iter(strides)
        self._strides = [None if stride is None else next(rest) for stride in found]
        self._operands = list(operands)

    def rows(self, index: int) -> Rows | None:
        """An operand of the set."""
        tensor, stride = self._operands[index], self._strides[index]
        if tensor is None or stride is None:
            return None
        return Rows(tensor, stride, column_stride(tensor))

    def sources(self, indices: Sequence[int], firsts: Sequence[int]) -> Sources | None:
        """Some operands of the set; None for no operand at all."""
        tensors = [self._operands[i] for i in indices]
        strides = [self._strides[i] for i in indices]
        if not tensors:
            return None
        return Sources(
            tuple(tensors), tuple(x.shape[-1] for x in tensors), tuple(firsts), tuple(zip(*strides, strict=True))  # type: ignore[arg-type,union-attr]
        )  # fmt: skip


class SharingSpace:
    """Own rows of a broadcast operand, and for each the rows of the call that share it."""

    def __init__(self, rows: Sequence[int], own: Sequence[int], operands: Sequence[Tensor | None]) -> None:
        own = (1,) * (len(rows) - len(own)) + tuple(own)
        summed = [size if mine == 1 else 1 for size, mine in zip(rows, own, strict=True)]
        found = [None if x is None else row_strides(x, rows) for x in operands]
        present = [stride for stride in found if stride is not None]
        self.own_sizes, own_strides = merged(own, present)
        self.sizes, strides = merged(summed, present)
        rest = iter(zip(own_strides, strides, strict=True))
        self.operands = [None if x is None else Shared(x, *next(rest)) for x in operands]
        self.own_rows, self.sharing = math.prod(own), math.prod(summed)
