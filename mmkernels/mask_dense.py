"""The part of a `Mask` that is a bool tensor, and how it becomes intervals where it can."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmkernels.mask_call import Call, Part, Span, Spans, check_broadcast, values_may_be_read


def hull(visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest interval of the last axis that holds every True, and whether all rows are such intervals."""
    length = visible.shape[-1]
    if length == 0:
        empty = visible.new_zeros(visible.shape[:-1], dtype=torch.int32)
        return empty, empty, visible.new_ones((), dtype=torch.bool)
    bits = visible.to(torch.uint8)
    count = visible.sum(-1)
    start = torch.where(count > 0, bits.argmax(-1), 0)
    stop = torch.where(count > 0, length - bits.flip(-1).argmax(-1), 0)
    return start.to(torch.int32), stop.to(torch.int32), (stop - start == count).all()


@dataclass(frozen=True, eq=False, repr=False)
class Dense(Part):
    """A bool tensor, True where visible, recognised as intervals where its values may be read."""

    kind: ClassVar[str] = "dense"
    tensor_fields: ClassVar[tuple[str, ...]] = ("tensor",)
    tensor: Tensor
    known: dict[Any, Any] = field(default_factory=dict)

    def describe(self) -> str:
        tensor = _without_repeats(self.tensor)
        if tensor.shape[-1] == 1 and self.tensor.shape[-1] > 1:
            return "intervals"
        return self.recognise(tensor, (tensor.shape[-1],))[0] if values_may_be_read(tensor) else self.kind

    def recognise(self, tensor: Tensor, k_lens: tuple[int, ...]) -> tuple[str, list[Span]]:
        """("full" | "intervals" | "dense", hull per segment), remembered until the tensor is written to."""
        version = None if tensor.is_inference() else tensor._version
        known = self.known.get(k_lens)
        if known is None or known[0] != version:
            known = version, _recognise(tensor, k_lens)
            self.known[k_lens] = known
        return known[1]

    def resolve(self, call: Call) -> Spans:
        axes = "(sequences, Hq, max_seqlen_q, max_seqlen_k)" if call.varlen else "(B, Hq, Lq, Lk)"
        check_broadcast("mask", self.tensor, call.dense_shape, axes)
        tensor = _without_repeats(self.tensor)
        if tensor.shape[-1] == 1:
            # Rows that see all or nothing are intervals whatever the values are.
            row = call.dense_rows(tensor[..., 0])
            return Spans([(0, row * call.segment(s).k_len) for s in range(len(call.k_lens))])
        if values_may_be_read(tensor):
            answer, spans = self.recognise(tensor, tuple(call.k_lens))
            exact = None
        else:
            parts = [hull(piece) for piece in tensor.split(list(call.k_lens), -1)]
            answer, spans = "dense", [(start, stop) for start, stop, _ in parts]
            exact = torch.stack([exact for *_, exact in parts]).all()
        if answer == "full":
            return Spans()
        spans = [(call.dense_rows(start), call.dense_rows(stop)) for start, stop in spans]
        if call.varlen:
            spans = call.split(*spans[0])
        return Spans(spans) if answer == "intervals" else Spans(spans, tensor, exact)


def _without_repeats(tensor: Tensor) -> Tensor:
    """An expanded axis brought back to size 1; nothing under a tracer, for which strides would become guards."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return tensor
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _recognise(tensor: Tensor, k_lens: tuple[int, ...]) -> tuple[str, list[Span]]:
    parts = [hull(piece) for piece in tensor.split(k_lens, -1)]
    spans: list[Span] = [(start, stop) for start, stop, _ in parts]
    if not all(bool(exact) for *_, exact in parts):
        return "dense", spans
    lengths = zip(parts, k_lens, strict=True)
    full = all(bool(((start == 0) & (stop == length)).all()) for (start, stop, _), length in lengths)
    return "full" if full else "intervals", spans
