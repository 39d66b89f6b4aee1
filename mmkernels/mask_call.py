"""The call that a `Mask` is resolved against, and the form in which the mask's parts answer.

A part answers with spans: per key segment one half-open interval (start, stop) of visible keys for every query row,
local to the segment. A bound is a Python int or an integer tensor (B or 1, Hq or 1, rows or 1). Only a dense part may
add a bool tensor for what intervals cannot say. Rows are the query tokens of every batch entry, or, with packed
sequences, all T tokens: then B = 1 and every index is local to the row's own sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

Bound = int | Tensor
Span = tuple[Bound, Bound]
INT32 = (-(2**31), 2**31 - 1)


def values_may_be_read(tensor: Tensor) -> bool:
    """Whether the host may look into this tensor: plain eager mode on the CPU."""
    return (
        not torch.compiler.is_compiling()
        and tensor.device.type == "cpu"
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.get_dynamic_layer_stack_depth() == 0
    )


@dataclass(frozen=True)
class Spans:
    """What a part, or the intersection of several, says about one call."""

    spans: list[Span] | None = None  # per segment; None: nothing is said by intervals
    visible: Tensor | None = None  # bool, broadcastable to (B, Hq, Lq, Lk); a pair must be inside both
    exact: Tensor | None = None  # bool scalar beside visible: true says that the spans alone are the mask

    def __and__(self, other: Spans) -> Spans:
        spans = self.spans or other.spans
        if self.spans and other.spans:
            spans = [(largest(a, c), smallest(b, d)) for (a, b), (c, d) in zip(self.spans, other.spans, strict=True)]
        if self.visible is None or other.visible is None:
            dense = other if self.visible is None else self
            return Spans(spans, dense.visible, dense.exact)
        exact = None if self.exact is None or other.exact is None else self.exact & other.exact
        return Spans(spans, self.visible & other.visible, exact)


def largest(a: Bound, b: Bound) -> Bound:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.maximum(a, b)
    if isinstance(a, Tensor):
        return a.clamp(min=b)
    return b.clamp(min=a) if isinstance(b, Tensor) else torch.sym_max(a, b)


def smallest(a: Bound, b: Bound) -> Bound:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.minimum(a, b)
    if isinstance(a, Tensor):
        return a.clamp(max=b)
    return b.clamp(max=a) if isinstance(b, Tensor) else torch.sym_min(a, b)


class Call:
    """The shapes that a mask is resolved against, of a padded call."""

    batch_axes = "(B, Hq, Lq)"
    varlen = False

    def __init__(self, batch: int, heads: int, q_len: int, k_lens: list[int], device: torch.device) -> None:
        self.batch, self.heads, self.q_len, self.k_lens, self.device = batch, heads, q_len, k_lens, device
        self.sequences = batch
        self.row_shape = (batch, heads, q_len)
        self.k_len: Bound = sum(k_lens)
        self.dense_shape = (batch, heads, q_len, self.k_len)

    def segment(self, index: int) -> Call:
        """The same call with one key segment only."""
        return Call(self.batch, self.heads, self.q_len, [self.k_lens[index]], self.device)

    def rows(self) -> Tensor:
        """Each row's query index, (1, 1, rows)."""
        return torch.arange(self.q_len, dtype=torch.int32, device=self.device).view(1, 1, -1)

    def diagonal(self, align: str) -> Bound:
        """The key that stands against query 0."""
        return 0 if align == "top_left" else self.k_len - self.q_len

    def per_sequence(self, values: Tensor) -> Tensor:
        """Spread (B,) over the rows' axes."""
        return values.view(-1, 1, 1)

    def dense_rows(self, values: Bound) -> Bound:
        """Spread a value per (B, Hq, Lq) over the rows' axes."""
        return values

    def split(self, start: Bound, stop: Bound, raw: bool = False) -> list[Span]:
        """Cut an interval of the whole key axis at the segments.

        raw keeps what reaches out of the axis on either end, for the operator to refuse.
        """
        spans, offset, last = [], 0, len(self.k_lens) - 1
        for index, length in enumerate(self.k_lens):
            limit = self.k_len if self.varlen else length

            def local(bound: Bound, offset: int = offset, index: int = index, limit: Bound = limit) -> Bound:
                if isinstance(bound, int) and bound == 0:
                    return 0
                bound = bound - offset if index else bound
                if isinstance(bound, Tensor) and not (raw or isinstance(limit, Tensor)):
                    return bound.clamp(0, limit)
                bound = bound if raw and index == 0 else largest(bound, 0)
                return bound if raw and index == last else smallest(bound, limit)

            spans.append((local(start), local(stop)))
            offset = offset + length
        return spans


class VarlenCall(Call):
    """The shapes and cumulative lengths that a mask is resolved against, of packed sequences."""

    batch_axes = "(1, Hq, T)"
    varlen = True

    def __init__(
        self, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, total_q: int, heads: int, max_q: int, max_k: int, device: Any
    ) -> None:
        super().__init__(1, heads, total_q, [max_k], device)
        count = cu_seqlens_q.shape[0] - 1
        self.sequences = count
        self.dense_shape = (count, heads, max_q, max_k)
        index = torch.arange(total_q, dtype=cu_seqlens_q.dtype, device=device)
        self.sequence = (torch.searchsorted(cu_seqlens_q, index, right=True) - 1).clamp(0, max(count - 1, 0))
        following = (self.sequence + 1).clamp(max=count)
        first_row = cu_seqlens_q[self.sequence]
        self.local = (index - first_row).to(torch.int32)
        self.q_lengths = (cu_seqlens_q[following] - first_row).view(1, 1, -1)
        self.k_len = (cu_seqlens_k[following] - cu_seqlens_k[self.sequence]).view(1, 1, -1)

    def segment(self, index: int) -> Call:
        return self

    def rows(self) -> Tensor:
        return self.local.view(1, 1, -1)

    def diagonal(self, align: str) -> Bound:
        return 0 if align == "top_left" else self.k_len - self.q_lengths

    def per_sequence(self, values: Tensor) -> Tensor:
        return values.view(1, 1, 1) if values.numel() == 1 else values[self.sequence].view(1, 1, -1)

    def dense_rows(self, values: Bound) -> Bound:
        if not isinstance(values, Tensor):
            return values
        sequence = self.sequence if values.shape[0] > 1 else torch.zeros_like(self.sequence)
        row = self.local.clamp(0, values.shape[2] - 1).long() if values.shape[2] > 1 else torch.zeros_like(sequence)
        return values[sequence, :, row].t()[None]


def check_broadcast(name: str, tensor: Tensor, target: tuple[int, ...], axes: str) -> None:
    """Raise unless the tensor has these axes, each of this size or 1."""
    if tensor.dim() != len(target) or any(s != t and s != 1 for s, t in zip(tensor.shape, target, strict=True)):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, expected {axes} = {tuple(target)}, any axis may be 1"
        )


def as_int32(bound: Tensor) -> Tensor:
    """Narrow without wrapping around: what does not fit stays out of every range."""
    return bound if bound.dtype == torch.int32 else bound.clamp(*INT32).to(torch.int32)


@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """One condition; its tensors are named in tensor_fields, everything else is static."""

    kind: ClassVar[str]
    tensor_fields: ClassVar[tuple[str, ...]] = ()
    static_fields: ClassVar[tuple[str, ...]] = ()

    def resolve(self, call: Call) -> Spans:
        raise NotImplementedError

    def tensors(self) -> list[Tensor]:
        """Every tensor of the part."""
        return [value for name in self.tensor_fields if isinstance(value := getattr(self, name), Tensor)]

    def describe(self) -> str:
        """The part's word in `Mask.kind`."""
        return self.kind

    def __repr__(self) -> str:
        values = [f"{name}={_show(getattr(self, name))}" for name in self.tensor_fields + self.static_fields]
        return f"{self.kind}({', '.join(values)})"


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return f"[{', '.join(map(_show, value))}]" if isinstance(value, tuple) else repr(value)
