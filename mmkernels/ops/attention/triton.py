"""The ``"triton"`` backend: kernels in Triton, for NVIDIA and AMD GPUs. Imports triton when it is first asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from mmkernels import _triton
from mmkernels.backend import Problem, why_not_triton
from mmkernels.ops.attention import native_call
from mmkernels.ops.attention.empty_rows import unmask_empty_rows
from mmkernels.ops.attention.lowered import Lowered

MAX_HEAD_DIM = 256
MAX_SEGMENTS = 16
"""Each more makes another kernel, whose parameters are longer."""


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the Triton kernels cannot run the problem; empty where they can."""
    return why_not_triton(problem, "bias") + limits(problem)


def limits(problem: Problem) -> list[str]:
    """What the kernels refuse on any device."""
    return native_call.why_not_sizes(problem, MAX_HEAD_DIM, MAX_SEGMENTS)


def unverified(problem: Problem) -> list[str]:
    """What has not been confirmed on hardware."""
    return _triton.unverified(problem.device)


def forward(call: Lowered, with_lse: bool) -> tuple[Tensor, Tensor | None]:
    """(out, lse); lse is None, and not computed, without ``with_lse``."""
    host = _host()
    with torch.cuda.device(call.query.device):
        call = native_call.readable(unmask_empty_rows(call))
        return host.forward(call, with_lse, host.device_of(call.query.device))


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Dense gradients of the needed ones of query, keys, values, bias; (0,) and [] for the others."""
    host = _host()
    with torch.cuda.device(call.query.device):
        call = native_call.readable(unmask_empty_rows(call))
        return host.backward(grad_out, grad_lse, call, out, lse, needs, host.device_of(call.query.device))


@functools.cache
def _host() -> ModuleType:
    """What launches the kernels; its import is that of triton."""
    return importlib.import_module("mmkernels.ops.attention.triton_kernels.host")
