"""The short way of an eager call with nothing but operands and scale: tiny problems cost little more than torch's own.

Checks and backend are looked up by shapes, dtypes and devices. Whatever this module does not serve takes the long way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkernels import backend as backends
from mmkernels import routing
from mmkernels.ops.attention import check, front
from mmkernels.ops.attention.autograd import Choice, plain_attention, short_choice
from mmkernels.ops.attention.lowered import Lowered

_PLANS: dict[tuple[Any, ...], Choice] = {}
_MOST_PLANS = 4096
backends.on_register(_PLANS.clear)
_any_autocast = torch._C._is_any_autocast_enabled


def serves(query: Any, key: Any, value: Any, scale: Any, dropout_p: Any, backend: Any) -> bool:
    """Whether these are plain tensors in eager mode, without dropout, and scale and backend of the usual types."""
    return (
        isinstance(query, Tensor)
        and isinstance(key, Tensor)
        and isinstance(value, Tensor)
        and (scale is None or type(scale) is float)
        and type(dropout_p) is float
        and dropout_p == 0.0
        and (backend is None or type(backend) is str)
        and routing.route((query, key, value)) == "eager"
        and not _any_autocast()
        and not front.watchers
        and not (query.is_nested or key.is_nested or value.is_nested)
    )


def attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, return_lse: bool, backend: str | None
) -> Any:
    """(out, lse) or out of a call that ``serves`` accepted."""
    shape = query.shape
    facts = (
        shape, key.shape, value.shape, query.dtype, key.dtype, value.dtype, query.device, key.device, value.device,
        query.layout, key.layout, value.layout, backend,
    )  # fmt: skip
    choice = _PLANS.get(facts)
    if choice is None:
        choice = _plan(facts, query, key, value)
    if scale is None:
        scale = shape[-1] ** -0.5
    elif not -check.HUGE < scale < check.HUGE:
        check.check_number("scale", scale)
    if choice.batch != shape[0]:
        query = query.expand(choice.batch, -1, -1, -1)
    short = choice.short
    if short is None:
        call = Lowered(query, [key], [value], scale=scale)
        return front.result(front.run_eager(call, choice, return_lse), return_lse)
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        return plain_attention(query, key, value, choice, scale, return_lse)
    out, lse = short.forward_plain(query, key, value, scale, return_lse)
    return (out, lse) if return_lse else out


def _plan(facts: tuple[Any, ...], query: Tensor, key: Tensor, value: Tensor) -> Choice:
    backends.check_name(facts[-1])
    batch = check.check_operands(query, [key], [value])
    choice = short_choice(Lowered(query, [key], [value]), facts[-1], batch)
    if len(_PLANS) >= _MOST_PLANS:
        _PLANS.clear()
    _PLANS[facts] = choice
    return choice
