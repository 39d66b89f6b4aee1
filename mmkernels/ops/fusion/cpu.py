"""The C++ backend of concat_fusion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkernels import _native
from mmkernels.backend import Problem, why_not_native
from mmkernels.ops.fusion import native_call

if _native.loaded:
    _forward = torch.ops.mmkernels_cpu.concat_fusion_forward.default
    _backward = torch.ops.mmkernels_cpu.concat_fusion_backward.default


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the C++ kernels cannot run the problem; empty where they can."""
    return why_not_native(problem, "parameter") + native_call.why_not_axes(problem)


def forward(*operands: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, u, mean, rstd) as the reference's forward gives them, for its arguments."""
    return native_call.forward(_forward, *operands)


def backward(*operands: Any) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as the reference's backward gives them, for its arguments."""
    return native_call.backward((_forward, _backward), *operands)
