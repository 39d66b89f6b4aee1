"""The ``"triton"`` backend of contrastive_loss: kernels in Triton, for NVIDIA and AMD GPUs.

Imports triton when it is first asked for. As on CUDA, nothing is read on the host.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmkernels import _triton
from mmkernels.backend import Problem, why_not_triton
from mmkernels.ops.contrastive import native_call
from mmkernels.ops.contrastive.native_call import number
from mmkernels.ops.contrastive.statistics import Side, Statistics


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why the Triton kernels cannot run the problem; empty where they can."""
    return why_not_triton(problem, "parameter")


def unverified(problem: Problem) -> list[str]:
    """What has not been confirmed on hardware."""
    return _triton.unverified(problem.device)


def statistics(
    image: Tensor, text: Tensor, logit_scale: Tensor, targets: Tensor | None, totals: bool
) -> tuple[Statistics, Statistics]:
    """What the softmax kind needs of every row and of every column."""
    with torch.cuda.device(image.device):
        entry = _entry("statistics", image.device)
        return native_call.statistics(entry, image, text, number(logit_scale, image), targets, totals)


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
    with torch.cuda.device(image.device):
        return native_call.gradients(
            _entry("gradients", image.device), image, text, number(logit_scale, image), targets, row_side,
            column_side, levels, needs, dtype,
        )  # fmt: skip


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
    with torch.cuda.device(image.device):
        return native_call.sigmoid(
            _entry("sigmoid", image.device), image, text, scale, bias, targets, label_smoothing, row_grad, needs, dtype
        )


def _entry(name: str, device: torch.device) -> Callable[..., Any]:
    host = _host()
    return functools.partial(getattr(host, name), host.device_of(device).arch)


@functools.cache
def _host() -> ModuleType:
    """What launches the kernels; its import is that of triton."""
    return importlib.import_module("mmkernels.ops.contrastive.triton_kernels.host")
