"""The ``"cuda"`` backend: the C++ kernels for GPUs of compute capability 8.0 and newer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import _native_cuda
from mmkernels.backend import Problem, why_not_native_cuda
from mmkernels.ops.attention import native_call
from mmkernels.ops.attention.empty_rows import unmask_empty_rows
from mmkernels.ops.attention.lowered import Lowered

# As csrc/cuda/launch/attention.h has them.
MAX_HEAD_DIM = 256
MAX_SEGMENTS = 16


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the CUDA kernels cannot run the problem; empty where they can."""
    return why_not_native_cuda(problem, "bias") + native_call.why_not_sizes(problem, MAX_HEAD_DIM, MAX_SEGMENTS)


def unverified(problem: Problem) -> list[str]:
    """What has not been confirmed on hardware."""
    return _native_cuda.unverified(problem.device)


def forward(call: Lowered, with_lse: bool) -> tuple[Tensor, Tensor | None]:
    """(out, lse); lse is None, and not computed, without ``with_lse``."""
    return native_call.forward(_entries()[0], unmask_empty_rows(call), with_lse)


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Dense gradients of the needed ones of query, keys, values, bias; (0,) and [] for the others."""
    return native_call.backward(_entries()[1], grad_out, grad_lse, unmask_empty_rows(call), out, lse, needs)


@functools.cache
def _entries() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Of the library, which is loaded when something is first asked of this backend."""
    library = torch.ops.mmkernels_cuda
    return library.attention_forward.default, library.attention_backward.default
