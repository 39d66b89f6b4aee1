"""The ``"cpu"`` backend: the C++ kernels of the native library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from mmkernels import _native
from mmkernels.backend import Problem
from mmkernels.bias import BIAS_RELATIVE
from mmkernels.layout import empty_gradient, empty_like_query, unit_last_stride
from mmkernels.ops.attention.lowered import Lowered, empty_lse

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 512

if _native.loaded:
    _forward = torch.ops.mmkernels_cpu.attention_forward.default
    _backward = torch.ops.mmkernels_cpu.attention_backward.default


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the C++ kernels cannot run the problem; empty where they can."""
    reasons = []
    if _native.why_not_loaded is not None:
        reasons.append(_native.why_not_loaded)
    if problem.device.type != "cpu":
        reasons.append(f"the tensors are on {problem.device}, not on the CPU")
    if problem.dtype not in DTYPES:
        reasons.append(f"it has no {problem.dtype} kernels")
    dims = {shape[-1] for shape in problem.shapes}
    if dims and max(dims) > MAX_HEAD_DIM:
        reasons.append(f"head dimension {max(dims)} is above {MAX_HEAD_DIM}")
    return reasons


def forward(call: Lowered, with_lse: bool) -> tuple[Tensor, Tensor | None]:
    """(out, lse); lse is None, and not computed, without ``with_lse``."""
    out = empty_like_query(call.query, call.values[0].shape[-1])
    lse = empty_lse(call.query, call.cu_seqlens_q is not None) if with_lse else None
    try:
        _forward(*_readable(call), out, lse)
    except RuntimeError as error:
        _raise(error)
    return out, lse


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Dense gradients of the needed ones of query, keys, values, bias; (0,) and [] for the others."""
    query = [empty_gradient(call.query)] if needs[0] else []
    keys = [empty_gradient(key) for key in call.keys] if needs[1] else []
    values = [empty_gradient(value) for value in call.values] if needs[2] else []
    bias = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in call.bias] if needs[3] else []
    call = _readable(call)
    try:
        _backward(unit_last_stride(grad_out), grad_lse, *call, unit_last_stride(out), lse, query, keys, values, bias)
    except RuntimeError as error:
        _raise(error)
    return query[0] if needs[0] else out.new_empty((0,)), keys, values, bias


def _readable(call: Lowered) -> Lowered:
    """The call with operands whose last axis is dense; nothing is copied where it is already."""
    if (
        call.query.stride(-1) == 1
        and call.bias_kind != BIAS_RELATIVE
        and all(tensor.stride(-1) == 1 for tensor in call.keys)
        and all(tensor.stride(-1) == 1 for tensor in call.values)
    ):
        return call
    return call._replace(
        query=unit_last_stride(call.query),
        keys=[unit_last_stride(key) for key in call.keys],
        values=[unit_last_stride(value) for value in call.values],
        bias=[unit_last_stride(part) for part in call.bias],
    )


def _raise(error: RuntimeError) -> NoReturn:
    """The library's own complaints are about index values: they are the caller's errors."""
    text = str(error)
    position = text.find("mmkernels:")
    if position < 0:
        raise error
    raise ValueError(text[position:].splitlines()[0].removeprefix("mmkernels:").strip()) from None
