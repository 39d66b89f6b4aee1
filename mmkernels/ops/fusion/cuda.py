"""The ``"cuda"`` backend of concat_fusion: the C++ kernels for GPUs of compute capability 8.0 and newer."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mmkernels import _native_cuda
from mmkernels.backend import Problem, why_not_native_cuda
from mmkernels.ops.fusion import native_call

MAX_SOURCES = 16
"""As csrc/core/fusion_problem.h has it."""


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the CUDA kernels cannot run the problem; empty where they can."""
    reasons = why_not_native_cuda(problem, "parameter") + native_call.why_not_axes(problem)
    return reasons + native_call.why_not_sources(problem, MAX_SOURCES)


def unverified(problem: Problem) -> list[str]:
    """What has not been confirmed on hardware."""
    return _native_cuda.unverified(problem.device)


def forward(*operands: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, u, mean, rstd) as the reference's forward gives them, for its arguments."""
    return native_call.forward(_entries()[0], *operands)


def backward(*operands: Any) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as the reference's backward gives them, for its arguments."""
    return native_call.backward(_entries(), *operands)


@functools.cache
def _entries() -> tuple[native_call.Entry, native_call.Entry]:
    """Of the library, which is loaded when something is first asked of this backend."""
    library = torch.ops.mmkernels_cuda
    return library.concat_fusion_forward.default, library.concat_fusion_backward.default
