"""Where an output's strides come from: one rule for backends and fakes, so that eager and traced strides agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def dense_strides_like(tensor: torch.Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor of ``shape`` whose axes lie in memory in the order of ``tensor``'s axes.

    The last axis is always innermost. Axes whose order cannot be told (size 1, or stride 0 of an expanded axis) keep
    their own position; the others are ordered by falling stride among the remaining positions.
    """
    last = tensor.dim() - 1
    sizes, strides = tensor.shape, tensor.stride()
    told = [axis for axis in range(last) if _has_order(sizes[axis]) and strides[axis] != 0]
    ordered = iter(sorted(told, key=lambda axis: -strides[axis]))
    order = [next(ordered) if axis in told else axis for axis in range(last)] + [last]
    result = [1] * (last + 1)
    step: int = 1
    for axis in reversed(order):
        result[axis] = step
        size = shape[axis]
        step = step * (torch.sym_max(size, 1) if isinstance(size, torch.SymInt) else max(size, 1))
    return tuple(result)


def _has_order(size: int | torch.SymInt) -> bool:
    """Whether an axis of this size has a place in memory; one that a compiler cannot know is taken to be above 1."""
    if not isinstance(size, torch.SymInt):
        return size != 1
    from torch.fx.experimental.symbolic_shapes import guard_or_true

    return guard_or_true(size != 1)


def _is_contiguous(tensor: torch.Tensor) -> bool:
    """``tensor.is_contiguous()``; False where a compiler cannot know, and the strides are worked out then."""
    if type(tensor) is torch.Tensor or not any(isinstance(size, torch.SymInt) for size in tensor.shape):
        return tensor.is_contiguous()
    from torch._prims_common import is_contiguous_or_false

    return is_contiguous_or_false(tensor)


def empty_like_query(query: torch.Tensor, last_dim: int) -> torch.Tensor:
    """Uninitialised output of shape ``(*query.shape[:-1], last_dim)``, dense in the query's dimension order."""
    if _is_contiguous(query):
        if query.shape[-1] == last_dim:
            return torch.empty_like(query)
        return query.new_empty((*query.shape[:-1], last_dim))
    shape = (*query.shape[:-1], last_dim)
    return torch.empty_strided(shape, dense_strides_like(query, shape), dtype=query.dtype, device=query.device)


def empty_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Uninitialised dense gradient of query, key or value: its shape and dtype, its order of dimensions."""
    if _is_contiguous(tensor):
        return torch.empty_like(tensor)
    strides = dense_strides_like(tensor, tensor.shape) if tensor.dim() else ()
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)


def unit_last_stride(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its last stride is 1 (or its last axis has one element), else a dense copy."""
    if tensor.stride(-1) == 1 or tensor.shape[-1] == 1:
        return tensor
    # Not contiguous(): an empty tensor is contiguous whatever its strides.
    return tensor.clone(memory_format=torch.contiguous_format)
