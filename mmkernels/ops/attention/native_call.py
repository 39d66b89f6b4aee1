"""What the backends of kernels share: those in C++ take the lowered call and outputs that are allocated here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import _native
from mmkernels.backend import Problem
from mmkernels.bias import BIAS_RELATIVE
from mmkernels.layout import empty_gradient, empty_like_query, unit_last_stride
from mmkernels.ops.attention.lowered import Lowered, empty_lse


def why_not_sizes(problem: Problem, max_head_dim: int, max_segments: int) -> list[str]:
    """Whether head dimensions or segments are more than kernels for GPUs take."""
    reasons = []
    dims = {shape[-1] for shape in problem.shapes}
    if dims and max(dims) > max_head_dim:
        reasons.append(f"head dimension {max(dims)} is above {max_head_dim}")
    segments = len(problem.shapes) // 2  # the query, and a key and a value for each
    if segments > max_segments:
        reasons.append(f"{segments} segments are more than {max_segments}")
    return reasons


def forward(entry: Callable[..., Any], call: Lowered, with_lse: bool) -> tuple[Tensor, Tensor | None]:
    """(out, lse) by a library's ``attention_forward``; lse is None, and not computed, without ``with_lse``."""
    out = empty_like_query(call.query, call.values[0].shape[-1])
    lse = empty_lse(call.query, call.cu_seqlens_q is not None) if with_lse else None
    try:
        entry(*readable(call), out, lse)
    except RuntimeError as error:
        _native.reraise(error)
    return out, lse


def backward(
    entry: Callable[..., Any], grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:  # fmt: skip
    """Dense gradients by a library's ``attention_backward``; (0,) and [] for those that are not needed."""
    query = [empty_gradient(call.query)] if needs[0] else []
    keys = [empty_gradient(key) for key in call.keys] if needs[1] else []
    values = [empty_gradient(value) for value in call.values] if needs[2] else []
    bias = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in call.bias] if needs[3] else []
    grad_out, out = unit_last_stride(grad_out), unit_last_stride(out)
    if out.numel() == 0:  # nothing for the kernel to do, nor anyone to write the zeros
        for grad in (*query, *keys, *values, *bias):
            grad.zero_()
        return query[0] if needs[0] else out.new_empty((0,)), keys, values, bias
    try:
        entry(grad_out, grad_lse, *readable(call), out, lse, query, keys, values, bias)
    except RuntimeError as error:
        _native.reraise(error)
    return query[0] if needs[0] else out.new_empty((0,)), keys, values, bias


def readable(call: Lowered) -> Lowered:
    """The call with operands whose last axis is dense; nothing is copied where it is already."""
    if _unit_strides(call):
        return call
    return call._replace(
        query=unit_last_stride(call.query),
        keys=[unit_last_stride(key) for key in call.keys],
        values=[unit_last_stride(value) for value in call.values],
        bias=[unit_last_stride(part) for part in call.bias],
    )


def _unit_strides(call: Lowered) -> bool:
    if call.bias_kind == BIAS_RELATIVE or call.query.stride(-1) != 1:
        return False
    for tensors in (call.keys, call.values):
        for tensor in tensors:
            if tensor.stride(-1) != 1:
                return False
    return True
