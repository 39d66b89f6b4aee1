"""Resolution: what a `Mask` says in one call, as plain tensors. The public names are in `mmkernels.mask`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkernels.mask_call import Bound, Call, Spans, VarlenCall
from mmkernels.mask_parts import intersection

if TYPE_CHECKING:
    from mmkernels.mask import Mask

CACHE_SIZE = 64


@dataclass(frozen=True)
class ResolvedMask:
    """A mask as plain tensors, in the form of docs/architecture.md.

    Attributes:
        start, stop: int32 (S, B or 1, Hq or 1, Lq or 1), local to each segment; varlen (1, 1, Hq or 1, T or 1),
            local to the row's sequence; None when intervals say nothing.
        visible: bool broadcastable to (B, Hq, Lq, Lk); varlen (N, Hq, max_seqlen_q, max_seqlen_k).
        interval_exact: bool scalar tensor; true says that the intervals alone are the mask.
        unmask_empty_rows: whether a row that sees nothing sees every key of its sequence.
    """

    start: Tensor | None = None
    stop: Tensor | None = None
    visible: Tensor | None = None
    interval_exact: Tensor | None = None
    unmask_empty_rows: bool = False


_NO_MASK = ResolvedMask()
_cache: dict[Any, tuple[Spans, ResolvedMask]] = {}
_zeros: dict[torch.device, Tensor] = {}


def _check_device(mask: Mask, device: torch.device) -> None:
    for part in mask.others:
        for tensor in part.tensors():
            if tensor.device != device:
                raise ValueError(f"mask is on {tensor.device}, but query is on {device}; use mask.to(query.device)")


def _as_tensor(bound: Bound, device: torch.device, may_cache: bool) -> Tensor:
    if isinstance(bound, Tensor):
        return bound if bound.dtype == torch.int32 else bound.to(torch.int32)
    if not may_cache or bound != 0:
        return torch.full((1, 1, 1), bound, dtype=torch.int32, device=device)
    zero = _zeros.get(device)
    if zero is None:
        with torch.inference_mode(False):
            zero = _zeros[device] = torch.zeros((1, 1, 1), dtype=torch.int32, device=device)
    return zero


def _finish(answer: Spans, mask: Mask, device: torch.device, may_cache: bool) -> ResolvedMask:
    bounds = []
    if answer.spans:
        for side in zip(*answer.spans, strict=True):
            tensors = [_as_tensor(bound, device, may_cache) for bound in side]
            bounds.append(tensors[0][None] if len(tensors) == 1 else torch.stack(torch.broadcast_tensors(*tensors)))
    start, stop = bounds or (None, None)
    return ResolvedMask(start, stop, answer.visible, answer.exact, mask.empty_rows == "unmask")


def _may_cache(device: torch.device) -> bool:
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return False
    if torch._C._functorch.get_dynamic_layer_stack_depth() > 0:
        return False
    # A captured graph would go on reading a tensor that the cache may drop, or that belongs to the graph's pool.
    return device.type == "cpu" or not (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def _remember(key: Any, mask: Mask, call: Call) -> tuple[Spans, ResolvedMask]:
    # Outside of inference mode, so that a later call can save the tensors for its backward.
    with torch.inference_mode(False):
        answer = intersection(mask.windows, call)
        found = answer, _finish(answer, mask, call.device, True)
    if len(_cache) >= CACHE_SIZE:
        _cache.pop(next(iter(_cache)), None)
    _cache[key] = found
    return found


def resolve(
    mask: Mask | None, *, batch: int, heads: int, q_len: int, k_lens: Sequence[int], device: torch.device
) -> ResolvedMask:
    """What the mask says in a call with these shapes. No value is read on the host, but see `Mask.dense`.

    Raises:
        ValueError: a part does not fit the shapes, or is on another device.
    """
    if mask is None:
        return _NO_MASK
    may_cache = _may_cache(device)
    answer = None
    if may_cache and mask.windows:
        key = (mask.windows_key, q_len, *k_lens, device)
        known = _cache.get(key)
        if known is None:
            known = _remember(key, mask, Call(batch, heads, q_len, list(k_lens), device))
        if not mask.others:
            return known[1]
        answer = known[0]
    _check_device(mask, device)
    call = Call(batch, heads, q_len, list(k_lens), device)
    answer = intersection(mask.parts, call) if answer is None else answer & intersection(mask.others, call)
    return _finish(answer, mask, device, may_cache)


def resolve_varlen(
    mask: Mask | None,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    total_q: int,
    heads: int,
    max_q: int,
    max_k: int,
    device: torch.device,
) -> ResolvedMask:
    """What the mask says to packed sequences; it means each of them by itself, in local indices."""
    if mask is None:
        return _NO_MASK
    _check_device(mask, device)
    call = VarlenCall(cu_seqlens_q, cu_seqlens_k, total_q, heads, max_q, max_k, device)
    return _finish(intersection(mask.parts, call), mask, device, _may_cache(device))
