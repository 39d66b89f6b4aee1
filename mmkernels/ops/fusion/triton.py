"""The ``"triton"`` backend of concat_fusion: kernels in Triton, for NVIDIA and AMD GPUs, imported when first asked."""

from __future__ import annotations

import functools
import importlib
import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmkernels import _triton
from mmkernels.backend import Problem, why_not_triton
from mmkernels.ops.fusion import native_call

MAX_SOURCES = 16
"""Each more makes another kernel, whose parameters are longer."""
MAX_SIZE = 2**31 - 1024
"""Of rows, features and outputs, which are numbered in 32 bits, to the end of the last tile; their places have 64."""


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the Triton kernels cannot run the problem; empty where they can."""
    return why_not_triton(problem, "parameter") + limits(problem)


def limits(problem: Problem) -> list[str]:
    """What the kernels refuse on any device."""
    reasons = native_call.why_not_axes(problem) + native_call.why_not_sources(problem, MAX_SOURCES)
    *inputs, weight = problem.shapes
    sizes = {"rows": math.prod(torch.broadcast_shapes(*(shape[:-1] for shape in inputs)))}
    sizes |= {"outputs": weight[0], "features": weight[1]}
    reasons += [f"{size} {name} are more than {MAX_SIZE}" for name, size in sizes.items() if size > MAX_SIZE]
    return reasons


def unverified(problem: Problem) -> list[str]:
    """What has not been confirmed on hardware."""
    return _triton.unverified(problem.device)


def forward(*operands: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, u, mean, rstd) as the reference's forward gives them, for its arguments."""
    weight = operands[1]
    with torch.cuda.device(weight.device):
        return native_call.forward(_entries(weight.device)[0], *operands)


def backward(*operands: Any) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as the reference's backward gives them, for its arguments."""
    weight = operands[2]
    with torch.cuda.device(weight.device):
        return native_call.backward(_entries(weight.device), *operands)


def _entries(device: torch.device) -> tuple[native_call.Entry, native_call.Entry]:
    host = _host()
    found = host.device_of(device)
    return functools.partial(host.forward, found), functools.partial(host.backward, found)


@functools.cache
def _host() -> ModuleType:
    """What launches the kernels; its import is that of triton."""
    return importlib.import_module("mmkernels.ops.fusion.triton_kernels.host")
