"""The C++ backend of contrastive_loss: the three functions of `statistics.py`, by kernels of the native library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import _native
from mmkernels.backend import Problem, why_not_native
from mmkernels.layout import unit_last_stride
from mmkernels.ops.contrastive.statistics import Side, Statistics
from mmkernels.ops.contrastive.targets import check_targets

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
    lengths = image.shape[0], text.shape[0]
    if 0 in lengths:
        check_targets(targets, lengths[1])
        return Statistics.of_nothing(lengths[0], image, totals), Statistics.of_nothing(lengths[1], text, totals)
    stats = [image.new_empty((2, n), dtype=torch.float32) for n in lengths]
    terms = [image.new_empty((2 if totals else 1, n), dtype=torch.float32) for n in lengths]
    embeddings = unit_last_stride(image), unit_last_stride(text)
    _run(_forward, *embeddings, float(logit_scale), targets, totals, stats[0], terms[0], stats[1], terms[1])
    row, column = (Statistics(stats[i], terms[i][0], terms[i][1] if totals else None) for i in range(2))
    return row, column


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
    of_image, of_text, sums = _outputs(image, text, needs, dtype)
    _run(
        _backward, unit_last_stride(image), unit_last_stride(text), float(logit_scale), targets, levels,
        torch.stack(row_side), torch.stack(column_side), of_image, of_text, sums,
    )  # fmt: skip
    return _given(image, of_image), _given(text, of_text), _given(image, sums, 0)


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
    per_row = torch.zeros((1, image.shape[0]), dtype=torch.float32) if needs[0] else None
    of_image, of_text, sums = _outputs(image, text, needs[1:], dtype)
    _run(
        _sigmoid, unit_last_stride(image), unit_last_stride(text), float(logit_scale),
        0.0 if logit_bias is None else float(logit_bias), targets, label_smoothing,
        None if row_grad is None else row_grad.reshape(1, -1).contiguous(), per_row, of_image, of_text, sums,
    )  # fmt: skip
    return (
        _given(image, per_row, 0), _given(image, of_image), _given(text, of_text),
        _given(image, sums, 0), _given(image, sums, 1),
    )  # fmt: skip


def _outputs(
    image: Tensor, text: Tensor, needs: Sequence[bool], dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Memory for the gradients of image, text and of the two scalars; None where nothing is needed."""
    nothing = image.shape[0] == 0 or text.shape[0] == 0  # for the kernel to do, nor anyone to write the zeros
    make: Callable[..., Tensor] = torch.zeros if nothing else torch.empty
    of_image, of_text = (
        make(tensor.shape, dtype=dtype) if need else None for tensor, need in zip((image, text), needs, strict=False)
    )
    return of_image, of_text, torch.zeros(2, dtype=torch.float64) if needs[2] or needs[3] else None


def _given(like: Tensor, result: Tensor | None, index: int | None = None) -> Tensor:
    """The result, or one number of it, or (0,) where nothing was asked for."""
    if result is None:
        return like.new_empty(0)
    return result if index is None else result[index]


def _run(kernel: Callable[..., Any], *args: Any) -> None:
    try:
        kernel(*args)
    except RuntimeError as error:
        _native.reraise(error)
