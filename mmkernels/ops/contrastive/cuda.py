"""The ``"cuda"`` backend of contrastive_loss: the C++ kernels for GPUs of compute capability 8.0 and newer.

Nothing is read on the host: scale and bias go to the kernels as tensors, and an index in `targets` that is no column is
no positive.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import _native_cuda
from mmkernels.backend import Problem, why_not_native_cuda
from mmkernels.ops.contrastive import native_call
from mmkernels.ops.contrastive.native_call import number
from mmkernels.ops.contrastive.statistics import Side, Statistics


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the CUDA kernels cannot run the problem; empty where they can."""
    return why_not_native_cuda(problem, "parameter")


def unverified(problem: Problem) -> list[str]:
    """What has not been confirmed on hardware."""
    return _native_cuda.unverified(problem.device)


def statistics(
    image: Tensor, text: Tensor, logit_scale: Tensor, targets: Tensor | None, totals: bool
) -> tuple[Statistics, Statistics]:
    """What the softmax kind needs of every row and of every column."""
    return native_call.statistics(_entries()[0], image, text, number(logit_scale, image), targets, totals)


def gradients(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    targets: Tensor | None,
    row_side: Side,
    column_side: Side,
    levels: bool,
    needs: Sequence[bool],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of image and text (in `dtype`) and of logit_scale, what is needed, from both sides; `levels`: some are not 0."""
    scale = number(logit_scale, image)
    return native_call.gradients(
        _entries()[1], image, text, scale, targets, row_side, column_side, levels, needs, dtype
    )


def sigmoid(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None,
    label_smoothing: float,
    row_grad: Tensor | None,
    needs: Sequence[bool],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss of every row; from the rows' gradients, those of image and text (in `dtype`), scale and bias."""
    scale, bias = number(logit_scale, image), None if logit_bias is None else number(logit_bias, image)
    return native_call.sigmoid(
        _entries()[2], image, text, scale, bias, targets, label_smoothing, row_grad, needs, dtype
    )


@functools.cache
def _entries() -> tuple[Callable[..., Any], ...]:
    """Of the library, which is loaded when something is first asked of this backend."""
    library = torch.ops.mmkernels_cuda
    names = ("contrastive_forward", "contrastive_backward", "contrastive_sigmoid")
    return tuple(getattr(library, name).default for name in names)
