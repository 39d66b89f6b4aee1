"""What the modules share: the choice of backend, and heads as views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmkernels import backend as backends
from mmkernels import routing
from mmkernels.ops.fusion.activation import ACTIVATIONS

Item = TypeVar("Item")


class Backed:
    """A module that runs ops of mmkernels on `backend`: None, or the name of one."""

    backend: str | None


class Composite(nn.Module):
    """A module that runs ops of mmkernels through `Backed` modules inside it only."""

    @property
    def backend(self) -> str | None:
        """The backend of the modules inside: of the first, should they have been set one by one."""
        return next(part.backend for part in self.modules() if isinstance(part, Backed))

    @backend.setter
    def backend(self, name: str | None) -> None:
        for part in self.modules():
            if isinstance(part, Backed):
                part.backend = name


def set_backend(
    model: nn.Module, name: str | None, kinds: type[nn.Module] | tuple[type[nn.Module], ...] = nn.Module
) -> int:
    """Make the mmkernels modules of a model run on the backend of this name; returns how many there are.

    Args:
        model: any module; those inside it that come from `mmkernels.nn` are set.
        name: "reference", "cpu", "triton", "cuda", or None for the first that can. Nothing is run here: a module whose
            op the backend cannot run raises when it is called.
        kinds: set modules of these classes, and those inside them, only. Not every backend has every op: with
            `set_backend(model, "cpu", CrossAttention)` a ConcatFusion beside it keeps its own choice.

    Raises:
        TypeError, ValueError: `name` is no backend.
    """
    backends.check_name(name)
    outer = [module for module in model.modules() if isinstance(module, kinds)]
    chosen = {part for module in outer for part in module.modules() if isinstance(part, Backed)}
    for module in chosen:
        module.backend = name
    return len(chosen)


def split_heads(x: Tensor, heads: int, parts: int = 1) -> tuple[Tensor, ...]:
    """(B, L, parts * heads * D) as `parts` tensors (B, heads, L, D): views, no copy."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, L, D) as (B, L, heads * D): a view of what attention returns for queries split as above."""
    return x.transpose(1, 2).flatten(2)


def check_tokens(name: str, x: Tensor, width: int) -> None:
    """Raise unless x is (B, L, width)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.dim() != 3 or x.shape[-1] != width:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected (batch, tokens, {width})")


def check_list(name: str, value: Sequence[Item], count: int | None = None) -> Sequence[Item]:
    """Raise unless value is a list or tuple, of this many tensors where a count is given."""
    if not isinstance(value, (list, tuple)):  # a tensor would pass for the list of its first axis
        raise TypeError(f"{name} must be a list of tensors, got {type(value).__name__}")
    if count is not None and len(value) != count:
        raise ValueError(f"{name} must hold {count} tensors, got {len(value)}")
    return value


def check_count(name: str, value: int, least: int = 1) -> int:
    """Raise unless value is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def check_widths(name: str, value: Sequence[int], count: int = 1, least: int = 1) -> list[int]:
    """The widths as a list, if they are ints of at least `least`, and at least `count` of them."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of ints, got {type(value).__name__}")
    widths = [check_count(f"{name}[{i}]", width, least) for i, width in enumerate(value)]
    if len(widths) < count:
        raise ValueError(f"{name} must hold the width of at least {count} input(s), got {widths}")
    return widths


def check_activation(value: str | None) -> str | None:
    """Raise unless value is None or the name of an activation."""
    if value is not None and value not in ACTIVATIONS[1:]:
        raise ValueError(f"activation must be None or one of {ACTIVATIONS[1:]}, got {value!r}")
    return value


def check_features(name: str, x: Tensor, width: int) -> None:
    """Raise unless x is (..., width)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.dim() == 0 or x.shape[-1] != width:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected a tensor (..., {width})")


def check_inputs(inputs: Sequence[Tensor], widths: Sequence[int]) -> None:
    """Raise unless inputs is a list of tensors (..., widths[i])."""
    check_list("inputs", inputs, len(widths))
    for i, (x, width) in enumerate(zip(inputs, widths, strict=True)):
        check_features(f"inputs[{i}]", x, width)


def check_joint(inputs: Sequence[Tensor]) -> None:
    """Raise unless the inputs share dtype and device, and broadcast on every axis but the last.

    For modules that give each input a product of its own: the product cannot name the input that does not fit.
    """
    first = inputs[0]
    for i, x in enumerate(inputs):
        if x.device != first.device:
            raise ValueError(f"inputs[{i}] is on {x.device}, but inputs[0] is on {first.device}")
        if x.dtype != first.dtype and routing.active_autocast_dtype(first.device.type) is None:
            raise TypeError(f"inputs[{i}] has dtype {x.dtype}, but inputs[0] has {first.dtype}")
    try:
        torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    except RuntimeError:
        shapes = [tuple(x.shape) for x in inputs]
        raise ValueError(f"inputs have shapes {shapes}, whose axes but the last do not broadcast") from None


def check_heads(dim: int, heads: int, head_dim: int | None, kv_heads: int | None = None) -> tuple[int, int]:
    """(head_dim, kv_heads) with their defaults, if heads divide what they must divide."""
    for name, value in (("dim", dim), ("heads", heads), ("head_dim", head_dim), ("kv_heads", kv_heads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if head_dim is None and dim % heads:
        raise ValueError(f"dim must be a multiple of heads where head_dim is not given, got {dim} and {heads}")
    kv_heads = heads if kv_heads is None else kv_heads
    if heads % kv_heads:
        raise ValueError(f"heads must be a multiple of kv_heads, got {heads} and {kv_heads}")
    return (dim // heads if head_dim is None else head_dim), kv_heads


def check_probability(name: str, value: float) -> float:
    """Raise unless value is a number in [0, 1]."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return value


def listed(value: int | Iterable[int]) -> list[int]:
    """An int or several as a list."""
    return [value] if isinstance(value, int) else list(value)


def optional_norm(wanted: bool, width: int, device: torch.device | None, dtype: torch.dtype | None) -> nn.Module:
    """RMSNorm over `width`, or the identity."""
    return nn.RMSNorm(width, eps=1e-6, device=device, dtype=dtype) if wanted else nn.Identity()
