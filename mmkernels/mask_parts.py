"""The parts that a `Mask` is made of, and what each of them says in a given call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmkernels.mask_call import Bound, Call, Part, Spans, as_int32, check_broadcast
from mmkernels.mask_dense import Dense

__all__ = [
    "PART_TYPES",
    "Dense",
    "Intervals",
    "KeyLengths",
    "Media",
    "Packed",
    "Prefix",
    "Segments",
    "Window",
    "intersection",
]


@dataclass(frozen=True, eq=False, repr=False)
class Window(Part):
    """Keys from left before to right after the row's diagonal; None is without limit. Causal is (None, 0)."""

    kind: ClassVar[str] = "window"
    static_fields: ClassVar[tuple[str, ...]] = ("left", "right", "align")
    left: int | None
    right: int | None
    align: str

    @property
    def key(self) -> str:
        """Names the part among all windows."""
        return f"{self.left},{self.right},{self.align}"

    def describe(self) -> str:
        return "causal" if self.left is None and self.right == 0 else self.kind

    def resolve(self, call: Call) -> Spans:
        row = call.rows() + call.diagonal(self.align)
        start = 0 if self.left is None else row - self.left
        stop = call.k_len if self.right is None else row + (self.right + 1)
        return Spans(call.split(start, stop))


@dataclass(frozen=True, eq=False, repr=False)
class KeyLengths(Part):
    """Keys before a length per sequence; with several entries one per segment, None for all of its keys."""

    kind: ClassVar[str] = "key_lengths"
    tensor_fields: ClassVar[tuple[str, ...]] = ("lengths",)
    static_fields: ClassVar[tuple[str, ...]] = ("per_segment",)
    lengths: tuple[Tensor | None, ...]
    per_segment: bool

    def tensors(self) -> list[Tensor]:
        return [lengths for lengths in self.lengths if lengths is not None]

    def resolve(self, call: Call) -> Spans:
        if not self.per_segment:
            return Spans(call.split(0, self._bound(self.lengths[0], call)))
        if len(self.lengths) != len(call.k_lens):
            raise ValueError(
                f"Mask.key_lengths was given {len(self.lengths)} segments, but the call has {len(call.k_lens)}"
            )
        spans = []
        for index, lengths in enumerate(self.lengths):
            segment = call.segment(index)
            spans += segment.split(0, self._bound(lengths, segment))
        return Spans(spans)

    def _bound(self, lengths: Tensor | None, call: Call) -> Bound:
        if lengths is None:
            return call.k_len
        check_broadcast("lengths of Mask.key_lengths", lengths, (call.sequences,), "(B,)")
        return call.per_sequence(lengths)


@dataclass(frozen=True, eq=False, repr=False)
class Packed(Part):
    """Keys of the row's own sequence, on one token axis that holds several; causal within the sequence if asked."""

    kind: ClassVar[str] = "packed"
    tensor_fields: ClassVar[tuple[str, ...]] = ("cu_seqlens_q", "cu_seqlens_k")
    static_fields: ClassVar[tuple[str, ...]] = ("causal", "align")
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    causal: bool
    align: str

    def resolve(self, call: Call) -> Spans:
        if call.varlen:
            raise ValueError("Mask.packed has no meaning for packed sequences: there every mask is per sequence")
        count = self.cu_seqlens_q.shape[0] - 1
        cu_q, cu_k = self.cu_seqlens_q, self.cu_seqlens_k
        row = torch.arange(call.q_len, dtype=cu_q.dtype, device=call.device)
        sequence = torch.searchsorted(cu_q, row, right=True) - 1
        inside = (sequence >= 0) & (sequence < count)
        sequence = sequence.clamp(0, max(count - 1, 0))
        following = (sequence + 1).clamp(max=count)
        start, end = cu_k[sequence], cu_k[following]
        stop = end
        if self.causal:
            local = row - cu_q[sequence] + 1
            if self.align == "bottom_right":
                local = local + (end - start) - (cu_q[following] - cu_q[sequence])
            stop = torch.minimum(start + local.clamp(min=0), end)
        start, stop = (as_int32(torch.where(inside, bound, 0)).view(1, 1, -1) for bound in (start, stop))
        return Spans(call.split(start, stop, raw=True))


@dataclass(frozen=True, eq=False, repr=False)
class Prefix(Part):
    """Causal, or before the prefix's end."""

    kind: ClassVar[str] = "prefix"
    tensor_fields: ClassVar[tuple[str, ...]] = ("prefix_lengths",)
    static_fields: ClassVar[tuple[str, ...]] = ("align",)
    prefix_lengths: Tensor
    align: str

    def resolve(self, call: Call) -> Spans:
        check_broadcast("prefix_lengths", self.prefix_lengths, (call.sequences,), "(B,)")
        causal = call.rows() + call.diagonal(self.align) + 1
        return Spans(call.split(0, torch.maximum(causal, call.per_sequence(self.prefix_lengths))))


@dataclass(frozen=True, eq=False, repr=False)
class Media(Part):
    """Tokens of the media items first to last, both included; -1 is none."""

    kind: ClassVar[str] = "media"
    tensor_fields: ClassVar[tuple[str, ...]] = ("first", "last")
    static_fields: ClassVar[tuple[str, ...]] = ("tokens_per_media",)
    first: Tensor
    last: Tensor
    tokens_per_media: int

    def resolve(self, call: Call) -> Spans:
        target = (call.row_shape[0], call.row_shape[2])
        check_broadcast("media_of_query", self.first, target, "(B, Lq)" if not call.varlen else "(1, T)")
        none = (self.first == -1) | (self.last == -1)
        start = torch.where(none, 0, self.first.long() * self.tokens_per_media)
        stop = torch.where(none, 0, (self.last.long() + 1) * self.tokens_per_media)
        return Spans(call.split(as_int32(start)[:, None], as_int32(stop)[:, None], raw=True))


@dataclass(frozen=True, eq=False, repr=False)
class Intervals(Part):
    """The intervals themselves."""

    kind: ClassVar[str] = "intervals"
    tensor_fields: ClassVar[tuple[str, ...]] = ("start", "stop")
    start: Tensor
    stop: Tensor

    def resolve(self, call: Call) -> Spans:
        start, stop = as_int32(self.start), as_int32(self.stop)
        if max(start.dim(), stop.dim()) < 4:
            start, stop = (bound[(None,) * (3 - bound.dim())] for bound in (start, stop))
            check_broadcast("start of Mask.intervals", start, call.row_shape, call.batch_axes)
            check_broadcast("stop of Mask.intervals", stop, call.row_shape, call.batch_axes)
            return Spans(call.split(start, stop, raw=True))
        start, stop = (bound[(None,) * (4 - bound.dim())] for bound in (start, stop))
        target = (len(call.k_lens), *call.row_shape)
        check_broadcast("start of Mask.intervals", start, target, "(segments, " + call.batch_axes[1:])
        check_broadcast("stop of Mask.intervals", stop, target, "(segments, " + call.batch_axes[1:])
        starts, stops = start.expand(target[0], -1, -1, -1), stop.expand(target[0], -1, -1, -1)
        return Spans([(starts[s], stops[s]) for s in range(target[0])])


@dataclass(frozen=True, eq=False, repr=False)
class Segments(Part):
    """Each key segment's own mask, None for all of its keys."""

    kind: ClassVar[str] = "segments"
    tensor_fields: ClassVar[tuple[str, ...]] = ("masks",)
    masks: tuple[Any, ...]  # of Mask or None; Mask is defined above this floor

    def tensors(self) -> list[Tensor]:
        return [tensor for mask in self.masks if mask is not None for part in mask.parts for tensor in part.tensors()]

    def describe(self) -> str:
        return "segments(" + ", ".join("full" if mask is None else mask.kind for mask in self.masks) + ")"

    def resolve(self, call: Call) -> Spans:
        if len(self.masks) != len(call.k_lens):
            raise ValueError(
                f"Mask.segments was given {len(self.masks)} masks, but the call has {len(call.k_lens)} segments"
            )
        answers = []
        for index, mask in enumerate(self.masks):
            answers.append(Spans() if mask is None else intersection(mask.parts, call.segment(index)))
        if all(answer.spans is None and answer.visible is None for answer in answers):
            return Spans()
        spans = []
        for index, answer in enumerate(answers):
            spans += answer.spans or [(0, call.segment(index).k_len)]
        if all(answer.visible is None for answer in answers):
            return Spans(spans)
        return Spans(spans, *_join_visible(answers, call))


def _join_visible(answers: list[Spans], call: Call) -> tuple[Tensor, Tensor | None]:
    pieces = []
    for answer, length in zip(answers, call.k_lens, strict=True):
        if answer.visible is None:
            pieces.append(torch.ones((1, 1, 1, length), dtype=torch.bool, device=call.device))
        else:
            pieces.append(answer.visible.expand(-1, -1, -1, length))
    rows = torch.broadcast_shapes(*(piece.shape[:3] for piece in pieces))
    visible = torch.cat([piece.expand(*rows, -1) for piece in pieces], dim=-1)
    dense = [answer for answer in answers if answer.visible is not None]
    flags = [answer.exact for answer in dense if answer.exact is not None]
    return visible, torch.stack(flags).all() if len(flags) == len(dense) else None


def intersection(parts: tuple[Part, ...], call: Call) -> Spans:
    """What all the parts say together."""
    answer = Spans()
    for part in parts:
        answer = answer & part.resolve(call)
    return answer


PART_TYPES: dict[str, Any] = {
    part.__name__: part for part in (Window, KeyLengths, Packed, Prefix, Media, Intervals, Dense, Segments)
}
