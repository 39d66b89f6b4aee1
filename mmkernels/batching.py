"""A vmap rule that any op may use: one call of the op per batch entry, results stacked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def looped_vmap(op: Any, info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    """The result and out_dims of `op` under torch.vmap, for arguments of any nesting.

    Right for every op, and as slow as the loop it is: an op whose operands allow a further batch axis does better.
    """
    flat_args, structure = pytree.tree_flatten(args)
    flat_dims = _dims_like(in_dims, args)
    results = []
    for index in range(info.batch_size):
        entry = [x if dim is None else x.select(dim, index) for x, dim in zip(flat_args, flat_dims, strict=True)]
        flat_result, result_structure = pytree.tree_flatten(op(*pytree.tree_unflatten(entry, structure)))
        results.append(flat_result)
    if not results:
        raise ValueError("torch.vmap over a batch of size 0 is not supported by this op")
    stacked = [torch.stack(column) for column in zip(*results, strict=True)]
    out_dims = pytree.tree_unflatten([0] * len(stacked), result_structure)
    return pytree.tree_unflatten(stacked, result_structure), out_dims


def _dims_like(dims: Any, args: Any) -> list[int | None]:
    """One dim per leaf of args: None may stand for a whole list there."""
    if isinstance(args, (list, tuple)):
        parts = [None] * len(args) if dims is None else dims
        return [dim for part, arg in zip(parts, args, strict=True) for dim in _dims_like(part, arg)]
    return [dims if isinstance(args, Tensor) else None]
