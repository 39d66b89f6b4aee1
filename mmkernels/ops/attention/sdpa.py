"""The drop-in for ``torch.nn.functional.scaled_dot_product_attention``: any leading dimensions, torch's arguments."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mmkernels.mask import Mask
from mmkernels.ops.attention import check, front, plain


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Drop-in for ``torch.nn.functional.scaled_dot_product_attention``.

    Equal to torch's, except that a row that sees no key gives 0, where some of torch's backends give NaN, and that
    dropout draws its bits by Philox from a seed of torch's generator. Leading dimensions broadcast.

    Args:
        query: (..., Hq, Lq, D); also (H, Lq, D) and (Lq, D). key: (..., Hk, Lk, D). value: (..., Hk, Lk, Dv).
        attn_mask: broadcastable to (..., Hq, Lq, Lk): bool (True takes part), or floating point, added to the logits.
        dropout_p: probability in [0, 1].
        is_causal: key j is visible to query i iff j <= i (top left); not together with ``attn_mask``.
        scale: 1/sqrt(D) when None.
        enable_gqa: Hq may be a multiple of Hk.

    Returns:
        (..., Hq, Lq, Dv).

    Raises:
        TypeError, ValueError: naming the argument, before anything runs.
    """
    plainly = attn_mask is None and is_causal is False and isinstance(enable_gqa, bool)
    if plainly and plain.serves(query, key, value, scale, dropout_p, None):
        if query.dim() == key.dim() == value.dim() == 4 and query.shape[1] == key.shape[1] == value.shape[1]:
            return plain.attention(query, key, value, scale, False, None)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        check.check_tensor(name, tensor)
        if tensor.dim() < 2:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected at least 2 axes (length, dimension)")
    for name, flag in (("is_causal", is_causal), ("enable_gqa", enable_gqa)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool, got {type(flag).__name__}")
    if is_causal and attn_mask is not None:
        raise ValueError("is_causal: explicit attn_mask should not be set when is_causal=True")
    lead = _leading_shape(query, key, value, enable_gqa)
    query, key, value = (_four_axes(tensor, lead) for tensor in (query, key, value))
    if not enable_gqa:
        heads = lead[-1] if len(lead) else 1
        # One key head serves every query head in place; any other broadcast of heads needs views.
        query = query if query.shape[1] == heads else query.expand(-1, heads, -1, -1)
        if key.shape[1] != value.shape[1]:
            key, value = key.expand(-1, heads, -1, -1), value.expand(-1, heads, -1, -1)
    mask: Any = None
    bias = None
    if is_causal:
        mask = Mask.causal()
    elif attn_mask is not None:
        attn_mask = _mask_axes(attn_mask, (*lead, query.shape[2], key.shape[2]))
        mask, bias = (attn_mask, None) if attn_mask.dtype == torch.bool else (None, attn_mask)
    call = front.lower(query, [key], [value], mask, bias, scale, None, dropout_p, None, None)
    out = front.run(call, None, False)[0]
    return out if len(lead) == 2 else out.reshape(*lead, *out.shape[2:])


def _leading_shape(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> tuple[int, ...]:
    """The broadcast of everything before (length, head dimension), with the query's heads."""
    shapes = [tensor.shape[:-2] for tensor in (query, key, value)]
    try:
        if not enable_gqa:
            return tuple(torch.broadcast_shapes(*shapes))
        if any(len(shape) == 0 for shape in shapes):
            raise ValueError(f"enable_gqa needs a heads axis, got query of shape {tuple(query.shape)}")
        return (*torch.broadcast_shapes(*(shape[:-1] for shape in shapes)), query.shape[-3])
    except RuntimeError:
        described = ", ".join(str(tuple(tensor.shape)) for tensor in (query, key, value))
        hint = "" if enable_gqa else " (enable_gqa=True lets query have a multiple of key's heads)"
        raise ValueError(f"query, key and value have shapes {described}: leading axes do not broadcast{hint}") from None


def _four_axes(tensor: Tensor, lead: tuple[int, ...]) -> Tensor:
    """(batch, heads, length, features); axes that need not be built stay 1."""
    shape = tensor.shape
    if tensor.dim() == 4 and len(lead) == 2:
        return tensor
    own = (1,) * (len(lead) - tensor.dim() + 2) + tuple(shape[:-2])
    if len(lead) <= 2:
        return tensor.reshape(*(1,) * (2 - len(lead)), *own, *shape[-2:])
    if any(size != 1 for size in own[:-1]):
        tensor = tensor.expand(*lead[:-1], own[-1], *shape[-2:])
        return tensor.reshape(math.prod(lead[:-1]), own[-1], *shape[-2:])
    return tensor.reshape(1, own[-1], *shape[-2:])


def _mask_axes(mask: Tensor, target: tuple[int, ...]) -> Tensor:
    """``attn_mask`` with four axes (or fewer, which broadcast)."""
    check.check_tensor("attn_mask", mask)
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"attn_mask has dtype {mask.dtype}, expected torch.bool or floating point")
    padded = (1,) * (len(target) - mask.dim()) + tuple(mask.shape)
    if len(padded) != len(target) or any(own != 1 and own != size for own, size in zip(padded, target, strict=True)):
        raise ValueError(f"attn_mask has shape {tuple(mask.shape)}, expected one that broadcasts to {target}")
    if len(target) <= 4:
        return mask
    leading = padded[:-3]
    if all(size == 1 for size in leading):
        return mask.reshape(1, *padded[-3:])
    mask = mask.expand(*target[:-3], *padded[-3:])
    return mask.reshape(math.prod(target[:-3]), *padded[-3:])
