"""Which way a call takes: straight to a backend, through the registered op, or through the differentiable reference.

Floor: beside ``backend``; knows torch's modes and levels, nothing of any op.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch.autograd import forward_ad

Route = Literal["eager", "op", "differentiable"]

PLAIN_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))

_is_compiling = torch.compiler.is_compiling
_functorch_depth = torch._C._functorch.get_dynamic_layer_stack_depth
_dispatch_modes = torch._C._len_torch_dispatch_stack
_DIFFERENTIATING = (torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Jvp)


def differentiating_level() -> str | None:
    """Name of the active level that differentiates and that a registered op cannot serve, or None.

    ``torch.func`` levels (grad, vjp, jvp, jacrev, ...) and forward-mode dual levels. A pure ``vmap`` level is none.
    """
    if _functorch_depth():
        for interpreter in torch._C._functorch.get_interpreter_stack():
            if interpreter.key() in _DIFFERENTIATING:
                return f"torch.func ({interpreter.key().name.lower()})"
    if forward_ad._current_level >= 0:
        return "forward-mode AD (dual level)"
    return None


def route(tensors: Iterable[torch.Tensor | None]) -> Route:
    """Choose the way of a call from torch's state and the types of its tensors.

    - ``"eager"``: plain tensors and parameters, nothing is tracing or transforming: call the backend directly, or an
      ``autograd.Function`` over it when a gradient is wanted.
    - ``"op"``: ``torch.compile``, ``torch.export``, dispatch modes (fake tensors, ``make_fx``), tensor subclasses and
      pure ``torch.vmap``: call ``torch.ops.mmkernels.*``, whose registered rules serve these.
    - ``"differentiable"``: a ``torch.func`` level that differentiates or a forward-AD dual level: call the plain torch
      reference, which torch transforms by itself. A named backend other than ``"reference"`` must raise there.

    ``tensors``: every tensor of the call (None is skipped). Costs about 0.4 us for plain tensors.
    """
    if _is_compiling():
        # Under compile every functorch level is served by the reference: a graph has no place for the op's vmap rule.
        return "differentiable" if _functorch_depth() or forward_ad._current_level >= 0 else "op"
    if _functorch_depth() or forward_ad._current_level >= 0:
        return "op" if differentiating_level() is None else "differentiable"
    if _dispatch_modes():
        return "op"
    for tensor in tensors:
        if type(tensor) not in PLAIN_TYPES and tensor is not None:
            return "op"
    return "eager"


def check_reference_only(backend: str | None, argument: str = "backend") -> None:
    """Raise where the route is ``"differentiable"`` and the user named a backend that it would not run."""
    if backend not in (None, "reference"):
        raise ValueError(
            f"{argument}={backend!r} cannot run under {differentiating_level() or 'a torch.func transform'}: only the "
            f'reference is differentiable by torch.func and forward-mode AD; pass {argument}=None or "reference"'
        )


def active_autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype that autocast asks for on this device type, or None where autocast is off."""
    if device_type in ("cpu", "cuda") and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def autocast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast as autocast does: floating point, but never float64."""
    if tensor.dtype != dtype and tensor.is_floating_point() and tensor.dtype != torch.float64:
        return tensor.to(dtype)
    return tensor


def autocast_operands(
    dtype: torch.dtype, query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """``autocast`` of an attention's operands."""
    return autocast(query, dtype), [autocast(key, dtype) for key in keys], [autocast(value, dtype) for value in values]
