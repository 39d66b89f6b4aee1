"""vmap rules of the attention ops: the mapped axis is folded into the batch where that means the same, else a loop.

Dropout counts batch entries from the start of each call, varlen has no batch, a relative table has no batch axis, and
``interval_exact`` is one answer for a whole call: a call in which one of these matters runs once per mapped entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import op_rules
from mmkernels.bias import BIAS_RELATIVE
from mmkernels.ops.attention.lowered import Lowered


def _fold(tensor: Tensor | None, dim: int | None, size: int, batch: int, axis: int = 0, whole: bool = True) -> Any:
    """Merge the mapped axis into the batch axis ``axis``: (..., size * batch, ...).

    ``whole=False`` leaves a tensor that is neither mapped nor has a batch as it is: it broadcasts.
    """
    if tensor is None or (dim is None and not whole and tensor.shape[axis] == 1):
        return tensor
    tensor = tensor.unsqueeze(axis) if dim is None else tensor.movedim(dim, axis)
    shape = list(tensor.shape)
    shape[axis], shape[axis + 1] = size, batch
    return tensor.expand(shape).flatten(axis, axis + 1)


def _fold_list(tensors: list[Tensor], dims: Any, size: int, batch: int, whole: bool) -> list[Tensor]:
    pairs = zip(tensors, _dims_of(tensors, dims), strict=True)
    return [_fold(tensor, dim, size, batch, whole=whole) for tensor, dim in pairs]


def _dims_of(tensors: list[Tensor], dims: Any) -> list[int | None]:
    """One mapped axis, or None, per tensor; None alone stands for a list that is not mapped."""
    return [None] * len(tensors) if dims is None else list(dims)


def _foldable(call: Lowered, dims: Lowered, bias_gradient: bool = False) -> bool:
    if call.dropout_p or call.cu_seqlens_q is not None or dims.interval_exact is not None:
        return False
    return call.bias_kind != BIAS_RELATIVE or not (bias_gradient or any(d is not None for d in dims.bias or ()))


def _folded(call: Lowered, dims: Lowered, size: int, batch: int, needs: Sequence[bool] = (False,) * 4) -> Lowered:
    relative = call.bias_kind == BIAS_RELATIVE
    return call._replace(
        query=_fold(call.query, dims.query, size, batch),
        keys=_fold_list(call.keys, dims.keys, size, batch, needs[1]),
        values=_fold_list(call.values, dims.values, size, batch, needs[2]),
        start=_fold(call.start, dims.start, size, batch, axis=1, whole=False),
        stop=_fold(call.stop, dims.stop, size, batch, axis=1, whole=False),
        visible=_fold(call.visible, dims.visible, size, batch, whole=False),
        bias=call.bias if relative else _fold_list(call.bias, dims.bias, size, batch, needs[3]),
    )


def _batch(call: Lowered, dims: Lowered) -> int:
    shape = list(call.query.shape)
    if dims.query is not None:
        del shape[dims.query]
    return shape[0]


def forward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Rule of ``attention_forward``."""
    call, dims = Lowered(*args[:-1]), Lowered(*in_dims[:-1])
    if not _foldable(call, dims):
        return op_rules.looped_vmap(torch.ops.mmkernels.attention_forward, info, in_dims, args)
    batch = _batch(call, dims)
    found = torch.ops.mmkernels.attention_forward(*_folded(call, dims, info.batch_size, batch), args[-1])
    return tuple(result.unflatten(0, (info.batch_size, batch)) for result in found), (0, 0)


def backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Rule of ``attention_backward``."""
    size, length = info.batch_size, len(Lowered._fields)
    (grad_out, grad_lse), (grad_out_dim, grad_lse_dim) = args[:2], in_dims[:2]
    call, dims = Lowered(*args[2 : length + 2]), Lowered(*in_dims[2 : length + 2])
    (out, lse, needs, name), (out_dim, lse_dim, *_) = args[length + 2 :], in_dims[length + 2 :]
    if not _foldable(call, dims, needs[3]):
        return op_rules.looped_vmap(torch.ops.mmkernels.attention_backward, info, in_dims, args)
    batch = _batch(call, dims)
    grads = torch.ops.mmkernels.attention_backward(
        _fold(grad_out, grad_out_dim, size, batch), _fold(grad_lse, grad_lse_dim, size, batch),
        *_folded(call, dims, size, batch, needs),
        _fold(out, out_dim, size, batch), _fold(lse, lse_dim, size, batch), needs, name,
    )  # fmt: skip

    def unfold(grad: Tensor, operand: Tensor, dim: int | None) -> Tensor:
        shape = list(operand.shape)
        if dim is not None:
            del shape[dim]
        grad = grad.unflatten(0, (size, batch))
        return grad if shape[0] == batch else grad.sum(1, keepdim=True)

    def unfold_list(found: list[Tensor], operands: list[Tensor], mapped: Any) -> list[Tensor]:
        return (
            [unfold(*each) for each in zip(found, operands, _dims_of(operands, mapped), strict=True)] if found else []
        )

    results = (
        unfold(grads[0], call.query, dims.query) if needs[0] else grads[0].expand(size, 0),
        unfold_list(grads[1], call.keys, dims.keys),
        unfold_list(grads[2], call.values, dims.values),
        unfold_list(grads[3], call.bias, dims.bias),
    )
    return results, (0, *([0] * len(tensors) for tensors in results[1:]))
