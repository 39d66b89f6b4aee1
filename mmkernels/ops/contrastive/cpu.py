"""The C++ backend of contrastive_loss: the three functions of `statistics.py`, by kernels of the native library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkernels import _native
from mmkernels.backend import Problem, why_not_native
from mmkernels.ops.contrastive import native_call
from mmkernels.ops.contrastive.statistics import Side, Statistics

if _native.loaded:
    _forward = torch.ops.mmkernels_cpu.contrastive_forward.default
    _backward = torch.ops.mmkernels_cpu.contrastive_backward.default
    _sigmoid = torch.ops.mmkernels_cpu.contrastive_sigmoid.default


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the C++ kernels cannot run the problem; empty where they can."""
    return why_not_native(problem, "parameter")


def statistics(
    image: Tensor, text: Tensor, logit_scale: Tensor, targets: Tensor | None, totals: bool
) -> tuple[Statistics, Statistics]:
    """What the softmax kind needs of every row and of every column."""
    return native_call.statistics(_forward, image, text, float(logit_scale), targets, totals)


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
    return native_call.gradients(
        _backward, image, text, float(logit_scale), targets, row_side, column_side, levels, needs, dtype
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
    bias = 0.0 if logit_bias is None else float(logit_bias)
    return native_call.sigmoid(
        _sigmoid, image, text, float(logit_scale), bias, targets, label_smoothing, row_grad, needs, dtype
    )
