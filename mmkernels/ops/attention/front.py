"""From the user's arguments to the lowered call, and from the lowered call to the result: what every front shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmkernels import backend as backends
from mmkernels import mask as masks
from mmkernels import routing
from mmkernels.bias import DecomposedBias, RelativeBias, lower_bias
from mmkernels.mask import Mask
from mmkernels.ops.attention import check, op, reference
from mmkernels.ops.attention.autograd import Attention, Choice
from mmkernels.ops.attention.lowered import Lowered

Bias = Tensor | RelativeBias | DecomposedBias

watchers: list[Callable[[Lowered, str | None], None]] = []
"""Told of every eager call, with the backend that was named, before it runs. While there are any, no call is short."""

_BATCHES: dict[tuple[Any, ...], int] = {}
_MOST_BATCHES = 4096


def as_mask(mask: Any) -> Mask | None:
    """None, a Mask, or a bool tensor as a dense Mask."""
    if mask is None or isinstance(mask, Mask):
        return mask
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be None, a Mask or a bool tensor, got {type(mask).__name__}")
    return Mask.dense(mask)


def autocast_operands(
    query: Any, keys: list[Tensor], values: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The operands in autocast's dtype where autocast is active on the query's device."""
    check.check_tensor("query", query)
    dtype = routing.active_autocast_dtype(query.device.type)
    return (query, keys, values) if dtype is None else routing.autocast_operands(dtype, query, keys, values)


def batch_of(query: Tensor, keys: list[Tensor], values: list[Tensor], names: check.Names) -> int:
    """``check_operands``, remembered for plain tensors in eager mode."""
    if torch.compiler.is_compiling() or type(query) not in routing.PLAIN_TYPES:
        return check.check_operands(query, keys, values, names)
    facts = (len(keys), *((x.shape, x.dtype, x.device, x.layout) for x in (query, *keys, *values)))
    batch = _BATCHES.get(facts)
    if batch is None:
        batch = check.check_operands(query, keys, values, names)
        if len(_BATCHES) >= _MOST_BATCHES:
            _BATCHES.clear()
        _BATCHES[facts] = batch
    return batch


def lower_numbers(scale: Any, softcap: Any, dropout_p: Any, head_dim: int) -> tuple[float, float, float]:
    """(scale, softcap, dropout_p) as the lowered call has them."""
    # int() fixes a symbolic head dimension: kernels are made for one.
    number = int(head_dim) ** -0.5 if scale is None else check.check_number("scale", scale)
    return number, check.check_softcap(softcap), check.check_dropout(dropout_p)


def lower_seed(seed: Any, dropout_p: float, device: torch.device) -> Tensor | None:
    """The seed tensor where there is dropout, else None."""
    if dropout_p > 0:
        return check.resolve_seed(seed, device)
    check.check_seed(seed, device)
    return None


def lower(
    query: Tensor, keys: list[Tensor], values: list[Tensor], mask: Any, bias: Any, scale: Any, softcap: Any,
    dropout_p: Any, seed: Any, offsets: Any, names: check.Names = check.SINGLE, rows: tuple[int, int] | None = None,
) -> Lowered:  # fmt: skip
    """Check the arguments of a padded call and lower them.

    ``rows`` is the (batch, query length) that mask and bias are lowered against; None takes the operands' own.
    """
    query, keys, values = autocast_operands(query, keys, values)
    batch = batch_of(query, keys, values, names)
    q_len = query.shape[2]
    if rows is not None:
        batch, q_len = rows
    if query.shape[0] != batch:
        query = query.expand(batch, -1, -1, -1)
    numbers = lower_numbers(scale, softcap, dropout_p, query.shape[-1])
    offsets = check.check_offsets(offsets)
    mask = as_mask(mask)
    heads, device = query.shape[1], query.device
    k_lens = [key.shape[2] for key in keys]
    seen = masks.resolve(mask, batch=batch, heads=heads, q_len=q_len, k_lens=k_lens, device=device)
    parts, kind, zero = lower_bias(bias, batch=batch, heads=heads, q_len=q_len, k_len=sum(k_lens), device=device)
    seed = lower_seed(seed, numbers[2], device)
    return Lowered(
        query, keys, values, seen.start, seen.stop, seen.visible, seen.interval_exact, parts, kind, zero, seed,
        None, None, *numbers, seen.unmask_empty_rows, offsets,
    )  # fmt: skip


def lower_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens_q: Any, cu_seqlens_k: Any, mask: Any, bias: Any, scale: Any,
    softcap: Any, dropout_p: Any, seed: Any, offsets: Any, max_seqlen_q: int | None, max_seqlen_k: int | None,
) -> Lowered:  # fmt: skip
    """Check the arguments of a packed call and lower them."""
    check.check_tensor("key", key)
    check.check_tensor("value", value)
    query, keys, values = autocast_operands(query, [key], [value])
    check.check_operands_varlen(query, keys, values)
    device = query.device
    cu_seqlens_q = check.check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, device)
    cu_seqlens_k = check.check_cu_seqlens("cu_seqlens_k", cu_seqlens_k, device)
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            f"cu_seqlens_k has shape {tuple(cu_seqlens_k.shape)}, expected cu_seqlens_q's {tuple(cu_seqlens_q.shape)}"
        )
    numbers = lower_numbers(scale, softcap, dropout_p, query.shape[-1])
    offsets = check.check_offsets(offsets)
    mask = as_mask(mask)
    total_q, heads = query.shape[0], query.shape[1]
    max_q = check.check_max_seqlen("max_seqlen_q", max_seqlen_q)
    max_k = check.check_max_seqlen("max_seqlen_k", max_seqlen_k)
    if bias is not None or (mask is not None and mask.has_dense):
        why = "a bias" if bias is not None else "a dense mask"
        max_q = _longest("max_seqlen_q", max_q, cu_seqlens_q, why)
        max_k = _longest("max_seqlen_k", max_k, cu_seqlens_k, why)
    seen = masks.resolve_varlen(
        mask, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, total_q=total_q, heads=heads,
        max_q=max_q or 0, max_k=max_k or 0, device=device,
    )  # fmt: skip
    parts, kind, zero = lower_bias(
        bias, batch=cu_seqlens_q.shape[0] - 1, heads=heads, q_len=max_q or 0, k_len=max_k or 0, device=device
    )
    seed = lower_seed(seed, numbers[2], device)
    return Lowered(
        query, keys, values, seen.start, seen.stop, seen.visible, seen.interval_exact, parts, kind, zero, seed,
        cu_seqlens_q, cu_seqlens_k, *numbers, seen.unmask_empty_rows, offsets,
    )  # fmt: skip


def _longest(name: str, given: int | None, cu_seqlens: Tensor, why: str) -> int:
    if not masks.values_may_be_read(cu_seqlens):
        if given is None:
            raise ValueError(
                f"{name} must be given with {why}: it can only be computed from cu_seqlens on the CPU in eager mode"
            )
        return given
    lengths = cu_seqlens.diff()
    longest = max(int(lengths.max()), 0) if lengths.numel() else 0
    if given is not None and given < longest:
        raise ValueError(f"{name} is {given}, expected at least the {longest} tokens of the longest sequence")
    return longest if given is None else given


def run(call: Lowered, backend: str | None, return_lse: bool) -> tuple[Tensor, Tensor | None]:
    """(out, lse) of a lowered call, by the way that torch's state asks for; lse may be None unless asked for."""
    backends.check_name(backend)
    way = routing.route(call.tensors())
    if way == "eager":
        for watch in watchers:
            watch(call, backend)
        return run_eager(call, Choice(backend), return_lse)
    if way == "op":
        return op.forward_op(*call, backend)
    routing.check_reference_only(backend)
    return reference.differentiable_forward(*call, need_lse=return_lse)


def run_eager(call: Lowered, choice: Choice, return_lse: bool) -> tuple[Tensor, Tensor | None]:
    """``run`` for plain tensors with nothing tracing or transforming."""
    operands = (call.query, *call.keys, *call.values, *call.bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands):
        found = Attention.apply(choice.forward(call), call, choice, return_lse, *operands)
        return found if return_lse else (found, None)
    return choice.forward(call)(call, return_lse)


def result(found: tuple[Tensor, Tensor | None], return_lse: bool) -> Any:
    """What the public functions return."""
    return found if return_lse else found[0]
