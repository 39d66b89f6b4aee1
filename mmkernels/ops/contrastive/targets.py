"""Who is a positive of whom: None (the diagonal), the column of every row, or a bool matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkernels.precision import accumulate_dtype


def check_targets(targets: Tensor | None, columns: int) -> None:
    """Raise for an index that is no column; on the CPU, where no synchronisation is paid for it."""
    if targets is None or targets.dtype == torch.bool or targets.device.type != "cpu" or targets.numel() == 0:
        return
    # Tensors of a graph in the making have no values to read, and those of torch.vmap not one each.
    tracing = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    if tracing or torch._C._functorch.is_functorch_wrapped_tensor(targets):
        return
    largest = int(targets.max())
    if largest >= columns:
        raise ValueError(f"targets holds the index {largest}, expected at most {columns - 1} (negative: no positive)")


def counts(targets: Tensor | None, rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Number of positives of every row (N,) and column (M,), in the accumulation dtype of `like`."""
    acc = accumulate_dtype(like.dtype)
    if targets is None:
        return like.new_ones(rows, dtype=acc), like.new_ones(columns, dtype=acc)
    if targets.dtype == torch.bool:
        return targets.sum(1).to(acc), targets.sum(0).to(acc)
    valid = (targets >= 0) & (targets < columns)
    per_column = torch.zeros(columns + 1, dtype=torch.int64, device=like.device)
    # Invalid rows count for one column too many, which is dropped.
    per_column = per_column.scatter_add(0, torch.where(valid, targets, columns), valid.to(torch.int64))
    return valid.to(acc), per_column[:columns].to(acc)


def positives(targets: Tensor | None, columns: int, start: int, stop: int, device: torch.device) -> Tensor:
    """The rows [start, stop) of the bool matrix of positives."""
    if targets is not None and targets.dtype == torch.bool:
        return targets[start:stop]
    index = torch.arange(start, stop, device=device) if targets is None else targets[start:stop]
    return index[:, None] == torch.arange(columns, device=device)
