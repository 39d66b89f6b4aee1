"""The ``"cpu"`` backend: the C++ kernels of the native library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkernels import _native
from mmkernels.backend import Problem, why_not_native
from mmkernels.layout import empty_gradient, empty_like_query, unit_last_stride
from mmkernels.ops.attention import native_call
from mmkernels.ops.attention.lowered import Lowered, empty_lse

MAX_HEAD_DIM = 512

if _native.loaded:
    # The plain entries take no mask, bias, softcap or dropout: reading the whole lowered call costs 5 to 7 us more.
    _forward = torch.ops.mmkernels_cpu.attention_forward.default
    _forward_plain = torch.ops.mmkernels_cpu.attention_forward_plain.default
    _backward = torch.ops.mmkernels_cpu.attention_backward.default
    _backward_plain = torch.ops.mmkernels_cpu.attention_backward_plain.default


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the C++ kernels cannot run the problem; empty where they can."""
    reasons = why_not_native(problem, "bias")
    dims = {shape[-1] for shape in problem.shapes}
    if dims and max(dims) > MAX_HEAD_DIM:
        reasons.append(f"head dimension {max(dims)} is above {MAX_HEAD_DIM}")
    return reasons


def forward(call: Lowered, with_lse: bool) -> tuple[Tensor, Tensor | None]:
    """(out, lse); lse is None, and not computed, without ``with_lse``."""
    if is_plain(call):
        return forward_plain(call.query, call.keys[0], call.values[0], call.scale, with_lse)
    return native_call.forward(_forward, call, with_lse)


def forward_plain(
    query: Tensor, key: Tensor, value: Tensor, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """``forward`` of one segment and nothing else, the short way: a tiny call costs half as much."""
    out = empty_like_query(query, value.shape[-1])
    lse = empty_lse(query, False) if with_lse else None
    if query.stride()[-1] != 1 or key.stride()[-1] != 1 or value.stride()[-1] != 1:
        query, key, value = unit_last_stride(query), unit_last_stride(key), unit_last_stride(value)
    try:
        _forward_plain(query, key, value, scale, out, lse)
    except RuntimeError as error:
        _native.reraise(error)
    return out, lse


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Dense gradients of the needed ones of query, keys, values, bias; (0,) and [] for the others."""
    return native_call.backward(_backward, grad_out, grad_lse, call, out, lse, needs)


def backward_plain(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float, out: Tensor, lse: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """``backward`` of one segment and nothing else; None for a gradient that is not needed."""
    grad_query = empty_gradient(query) if needs[0] else None
    grad_key = empty_gradient(key) if needs[1] else None
    grad_value = empty_gradient(value) if needs[2] else None
    if query.stride()[-1] != 1 or key.stride()[-1] != 1 or value.stride()[-1] != 1:
        query, key, value = unit_last_stride(query), unit_last_stride(key), unit_last_stride(value)
    if grad_out.stride(-1) != 1:
        grad_out = unit_last_stride(grad_out)
    try:
        _backward_plain(grad_out, query, key, value, scale, out, lse, grad_query, grad_key, grad_value)
    except RuntimeError as error:
        _native.reraise(error)
    return grad_query, grad_key, grad_value


def is_plain(call: Lowered) -> bool:
    """Whether the call is operands and scale only."""
    (
        _, keys, _, start, stop, visible, _, _, bias_kind, _, _, cu_seqlens_q, _, _, softcap, dropout_p, unmask, _,
    ) = call  # fmt: skip
    return not (
        bias_kind or softcap or dropout_p or unmask or start is not None or stop is not None
        or visible is not None or cu_seqlens_q is not None or len(keys) != 1
    )  # fmt: skip
