"""`Mask`: who sees whom, as one immutable value that stays symbolic until a call resolves it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mmkernels import mask_parts
from mmkernels.mask_call import Part, values_may_be_read
from mmkernels.mask_resolve import ResolvedMask, resolve, resolve_varlen

__all__ = ["Mask", "ResolvedMask", "resolve", "resolve_varlen", "values_may_be_read"]

FAR = 2**30  # beyond every key index, and still an int32 after adding a query index


def _check_align(align: str) -> str:
    if align not in ("top_left", "bottom_right"):
        raise ValueError(f'align must be "top_left" or "bottom_right", got {align!r}')
    return align


def _check_integers(name: str, value: Any, dims: tuple[int, ...]) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be an integer tensor, got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got dtype {value.dtype}")
    if value.dim() not in dims:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {' or '.join(map(str, dims))} axes")
    # Narrow types would wrap around where a segment's offset is subtracted.
    return value if value.dtype in (torch.int32, torch.int64) else value.long()


def _merge_empty_rows(values: Sequence[str | None]) -> str | None:
    for value in values:
        if value not in (None, "zero", "unmask"):
            raise ValueError(f'empty_rows must be "zero" or "unmask", got {value!r}')
    explicit = sorted({value for value in values if value is not None})
    if len(explicit) > 1:
        raise ValueError(f"empty_rows belongs to the whole mask, but its parts ask for both {' and '.join(explicit)}")
    return explicit[0] if explicit else None


class Mask:
    """Who sees whom in one attention call: an intersection of conditions, made by the constructors below.

    `a & b` sees what both see. A plain mask addresses the concatenated key axis; `Mask.segments` gives each key
    segment its own. `empty_rows`, which every constructor takes, says what becomes of a row that sees no key in the
    final mask: "zero" (the default) gives output 0, "unmask" lets it attend to every key of its sequence. Tensors are
    leaves of the mask as a pytree; nothing is read from them on the host, except by `Mask.dense` in eager CPU mode.
    """

    __slots__ = ("empty_rows", "others", "parts", "windows", "windows_key")

    def __init__(self, parts: tuple[Part, ...], empty_rows: str | None = None) -> None:
        self.parts = parts
        self.empty_rows = empty_rows
        # Windows have no tensors: they say the same in every call of the same shape, which the key names.
        self.windows = tuple([part for part in parts if isinstance(part, mask_parts.Window)])
        self.others = tuple([part for part in parts if not isinstance(part, mask_parts.Window)])
        self.windows_key = ";".join([f"{self.empty_rows}", *[part.key for part in self.windows]])

    @classmethod
    def causal(cls, align: str = "top_left", *, empty_rows: str | None = None) -> Mask:
        """Key j is visible to query i iff `j <= i`; with "bottom_right" iff `j <= i + Lk - Lq`.

        Args:
            align: "top_left" counts both axes from their first token, "bottom_right" from their last; the lengths
                are the tensors', or with packed sequences each sequence's own, never those of `key_lengths`.
        """
        return cls((mask_parts.Window(None, 0, _check_align(align)),), _merge_empty_rows([empty_rows]))

    @classmethod
    def window(
        cls, left: int | None, right: int | None, align: str = "top_left", *, empty_rows: str | None = None
    ) -> Mask:
        """Key j is visible to query i iff `i - left <= j <= i + right`; `i + Lk - Lq` for i with "bottom_right".

        Args:
            left, right: non-negative ints, None for no limit on that side.
        """
        for name, value in (("left", left), ("right", right)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
                raise TypeError(f"{name} must be an int or None, got {type(value).__name__}")
            if value < 0:
                raise ValueError(f"{name} must be non-negative, got {value} (None is without limit)")
        left, right = (None if value is None or value >= FAR else value for value in (left, right))
        return cls((mask_parts.Window(left, right, _check_align(align)),), _merge_empty_rows([empty_rows]))

    @classmethod
    def key_lengths(cls, lengths: Tensor | Sequence[Tensor | None], *, empty_rows: str | None = None) -> Mask:
        """Key j of batch entry b is visible iff `j < lengths[b]`.

        Args:
            lengths: integer tensor (B,), (1,) or (); or a list with one such tensor (None: all) per key segment.
                With packed sequences B is their number.
        """
        per_segment = isinstance(lengths, (list, tuple))
        entries = []
        for entry in lengths if per_segment else [lengths]:
            if entry is not None or not per_segment:
                entry = _check_integers("lengths", entry, (0, 1)).reshape(-1)
            entries.append(entry)
        return cls((mask_parts.KeyLengths(tuple(entries), per_segment),), _merge_empty_rows([empty_rows]))

    @classmethod
    def packed(
        cls,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        causal: bool = False,
        align: str = "top_left",
        *,
        empty_rows: str | None = None,
    ) -> Mask:
        """Several sequences on one token axis: a query sees the keys of its own sequence.

        Args:
            cu_seqlens_q, cu_seqlens_k: integer (N + 1), where each sequence starts and the last one ends. Tokens
                outside of all sequences see nothing.
            causal, align: causality within each sequence, by its own lengths.
        """
        cu_seqlens_q = _check_integers("cu_seqlens_q", cu_seqlens_q, (1,))
        cu_seqlens_k = _check_integers("cu_seqlens_k", cu_seqlens_k, (1,))
        if cu_seqlens_q.shape != cu_seqlens_k.shape or cu_seqlens_q.shape[0] < 1:
            raise ValueError(
                f"cu_seqlens_q and cu_seqlens_k must both be (N + 1,), got {tuple(cu_seqlens_q.shape)} and "
                f"{tuple(cu_seqlens_k.shape)}"
            )
        part = mask_parts.Packed(cu_seqlens_q, cu_seqlens_k, bool(causal), _check_align(align))
        return cls((part,), _merge_empty_rows([empty_rows]))

    @classmethod
    def prefix(cls, prefix_lengths: Tensor, align: str = "top_left", *, empty_rows: str | None = None) -> Mask:
        """Causal, or `j < prefix_lengths[b]`: a prefix that sees itself whole, then text (PaliGemma, T5's prefix LM).

        Args:
            prefix_lengths: integer tensor (B,), (1,) or ().
        """
        lengths = _check_integers("prefix_lengths", prefix_lengths, (0, 1)).reshape(-1)
        return cls((mask_parts.Prefix(lengths, _check_align(align)),), _merge_empty_rows([empty_rows]))

    @classmethod
    def media(cls, media_of_query: Tensor, tokens_per_media: int, *, empty_rows: str | None = None) -> Mask:
        """Row i sees the tokens of media item `media_of_query[b, i]`, `tokens_per_media` each; -1 sees none.

        Args:
            media_of_query: integer (B, Lq) (Flamingo), or (B, Lq, 2) of (first, last), both included (mllama).
        """
        media_of_query = _check_integers("media_of_query", media_of_query, (2, 3))
        first = last = media_of_query
        if media_of_query.dim() == 3:
            if media_of_query.shape[2] != 2:
                raise ValueError(f"media_of_query has shape {tuple(media_of_query.shape)}, expected (B, Lq, 2)")
            first, last = media_of_query.unbind(-1)
        if isinstance(tokens_per_media, bool) or not isinstance(tokens_per_media, (int, torch.SymInt)):
            raise TypeError(f"tokens_per_media must be an int, got {type(tokens_per_media).__name__}")
        if tokens_per_media < 0:
            raise ValueError(f"tokens_per_media must be non-negative, got {tokens_per_media}")
        return cls((mask_parts.Media(first, last, tokens_per_media),), _merge_empty_rows([empty_rows]))

    @classmethod
    def intervals(cls, start: Tensor | int, stop: Tensor | int, *, empty_rows: str | None = None) -> Mask:
        """Key j is visible to row (b, h, i) iff `start[b, h, i] <= j < stop[b, h, i]`.

        Args:
            start, stop: integer tensors broadcastable to (B, Hq, Lq), over the whole key axis; or, with four axes, to
                (S, B, Hq, Lq), local to each key segment. One of them may be an int. With packed sequences
                (1, Hq, T), local to each row's sequence. Values are checked when the operator runs.
        """
        if isinstance(start, int) and isinstance(stop, Tensor):
            start = torch.full((), start, dtype=torch.int32, device=stop.device)
        elif isinstance(stop, int) and isinstance(start, Tensor):
            stop = torch.full((), stop, dtype=torch.int32, device=start.device)
        first = _check_integers("start", start, (0, 1, 2, 3, 4))
        last = _check_integers("stop", stop, (0, 1, 2, 3, 4))
        return cls((mask_parts.Intervals(first, last),), _merge_empty_rows([empty_rows]))

    @classmethod
    def dense(cls, visible: Tensor, *, empty_rows: str | None = None) -> Mask:
        """Pair (b, h, i, j) is visible iff `visible[b, h, i, j]`.

        Args:
            visible: bool tensor broadcastable to (B, Hq, Lq, Lk); with packed sequences to
                (N, Hq, max_seqlen_q, max_seqlen_k), in local indices.

        In eager mode on the CPU the mask finds out by itself whether every row is an interval; `kind` tells.
        """
        if not isinstance(visible, Tensor):
            raise TypeError(f"mask must be a bool tensor, got {type(visible).__name__}")
        if visible.dtype != torch.bool:
            raise TypeError(f"mask must be a bool tensor, got dtype {visible.dtype} (a float mask goes to bias=)")
        if visible.layout != torch.strided:
            raise TypeError(f"mask has layout {visible.layout}, expected a strided tensor")
        if visible.dim() > 4:
            raise ValueError(f"mask has shape {tuple(visible.shape)}, expected at most the 4 axes (B, Hq, Lq, Lk)")
        part = mask_parts.Dense(visible[(None,) * (4 - visible.dim())])
        return cls((part,), _merge_empty_rows([empty_rows]))

    @classmethod
    def segments(cls, masks: Sequence[Mask | None], *, empty_rows: str | None = None) -> Mask:
        """Each key segment has its own mask, in its own key indices; None sees all of the segment."""
        if not isinstance(masks, (list, tuple)):
            raise TypeError(f"masks must be a list with one Mask or None per segment, got {type(masks).__name__}")
        for mask in masks:
            if mask is not None and not isinstance(mask, Mask):
                raise TypeError(f"masks must hold Mask or None, got {type(mask).__name__}")
        asked = [mask.empty_rows for mask in masks if mask is not None]
        return cls((mask_parts.Segments(tuple(masks)),), _merge_empty_rows([empty_rows, *asked]))

    def __and__(self, other: Mask) -> Mask:
        if not isinstance(other, Mask):
            return NotImplemented
        return Mask(self.parts + other.parts, _merge_empty_rows([self.empty_rows, other.empty_rows]))

    @property
    def kind(self) -> str:
        """What the mask is made of, as "window & key_lengths"; a dense part says "full" or "intervals" when it is."""
        return " & ".join(part.describe() for part in self.parts)

    @property
    def has_dense(self) -> bool:
        """Whether a part, or a segment's part, is a bool tensor."""
        return any(
            any(mask is not None and mask.has_dense for mask in part.masks)
            if isinstance(part, mask_parts.Segments)
            else isinstance(part, mask_parts.Dense)
            for part in self.parts
        )

    @property
    def device(self) -> torch.device | None:
        """Where the mask's tensors are; None when it has none."""
        for part in self.parts:
            for tensor in part.tensors():
                return tensor.device
        return None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Mask:
        """The same mask with its tensors on this device."""
        return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=non_blocking), self)

    def to_dense(
        self,
        batch: int,
        heads: int,
        q_len: int,
        k_len: int | Sequence[int],
        *,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Bool tensor (batch, heads, q_len, Lk), True where the pair is visible, `empty_rows` applied.

        Args:
            k_len: the key length, or a list with each segment's.
            device: where to build it, the mask's own by default.
        """
        lengths = [k_len] if isinstance(k_len, (int, torch.SymInt)) else list(k_len)
        where = torch.device(device) if device is not None else self.device or torch.device("cpu")
        found = resolve(self, batch=batch, heads=heads, q_len=q_len, k_lens=lengths, device=where)
        visible = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=where)
        if found.start is not None and found.stop is not None:
            columns = [
                (key >= start[..., None]) & (key < stop[..., None])
                for start, stop, length in zip(found.start, found.stop, lengths, strict=True)
                for key in [torch.arange(length, device=where)]
            ]
            visible = torch.cat(columns, dim=-1)
        if found.visible is not None:
            visible = visible & found.visible
        visible = visible.expand(batch, heads, q_len, sum(lengths))
        return visible | ~visible.any(-1, keepdim=True) if found.unmask_empty_rows else visible

    def __repr__(self) -> str:
        ending = "" if self.empty_rows is None else f", empty_rows={self.empty_rows!r}"
        return f"Mask({' & '.join(map(repr, self.parts))}{ending})"


def _flatten(mask: Mask) -> tuple[list[Any], Any]:
    children = [[getattr(part, name) for name in part.tensor_fields] for part in mask.parts]
    static = tuple(
        (type(part).__name__, tuple(getattr(part, name) for name in part.static_fields)) for part in mask.parts
    )
    return children, (mask.empty_rows, static)


def _unflatten(children: Any, context: Any) -> Mask:
    empty_rows, static = context
    parts = []
    for values, (name, options) in zip(children, static, strict=True):
        cls = mask_parts.PART_TYPES[name]
        fields = dict(zip(cls.tensor_fields, values, strict=True)) | dict(zip(cls.static_fields, options, strict=True))
        parts.append(cls(**fields))
    return Mask(tuple(parts), empty_rows)


def _flatten_with_keys(mask: Mask) -> tuple[list[Any], Any]:
    children, context = _flatten(mask)
    return [(pytree.SequenceKey(index), child) for index, child in enumerate(children)], context


def _load_context(text: str) -> Any:
    empty_rows, static = json.loads(text)
    return empty_rows, tuple((name, tuple(options)) for name, options in static)


pytree.register_pytree_node(
    Mask,
    _flatten,
    _unflatten,
    serialized_type_name="mmkernels.Mask",
    to_dumpable_context=json.dumps,
    from_dumpable_context=_load_context,
    flatten_with_keys_fn=_flatten_with_keys,
)
# torch.load(weights_only=True), and so torch.export.load, may build masks: they hold tensors and plain values only.
torch.serialization.add_safe_globals([Mask, *mask_parts.PART_TYPES.values()])
