"""What the C++ and Triton backends of contrastive_loss share: outputs that are allocated here, for an entry to write.

An entry is a library's, or a function of Triton's host side with the same arguments. `scale` and `bias` are what it
takes: numbers (CPU), or tensors of one float32 that only the device reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import _native
from mmkernels.layout import unit_last_stride
from mmkernels.ops.contrastive.statistics import Side, Statistics
from mmkernels.ops.contrastive.targets import check_targets


def number(scalar: Tensor, like: Tensor) -> Tensor:
    """A scalar as kernels for GPUs read it."""
    return scalar.detach().to(like.device, torch.float32)


def statistics(
    entry: Callable[..., Any], image: Tensor, text: Tensor, scale: Any, targets: Tensor | None, totals: bool
) -> tuple[Statistics, Statistics]:
    """By an entry ``contrastive_forward``."""
    lengths = image.shape[0], text.shape[0]
    if 0 in lengths:
        check_targets(targets, lengths[1])
        return Statistics.of_nothing(lengths[0], image, totals), Statistics.of_nothing(lengths[1], text, totals)
    stats = [image.new_empty((2, n), dtype=torch.float32) for n in lengths]
    terms = [image.new_empty((2 if totals else 1, n), dtype=torch.float32) for n in lengths]
    embeddings = unit_last_stride(image), unit_last_stride(text)
    _run(entry, *embeddings, scale, targets, totals, stats[0], terms[0], stats[1], terms[1])
    row, column = (Statistics(stats[i], terms[i][0], terms[i][1] if totals else None) for i in range(2))
    return row, column


def gradients(
    entry: Callable[..., Any],
    image: Tensor,
    text: Tensor,
    scale: Any,
    targets: Tensor | None,
    row_side: Side,
    column_side: Side,
    levels: bool,
    needs: Sequence[bool],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """By an entry ``contrastive_backward``."""
    of_image, of_text, sums = _outputs(image, text, needs, dtype)
    _run(
        entry, unit_last_stride(image), unit_last_stride(text), scale, targets, levels,
        torch.stack(row_side), torch.stack(column_side), of_image, of_text, sums,
    )  # fmt: skip
    return _given(image, of_image), _given(text, of_text), _given(image, sums, 0)


def sigmoid(
    entry: Callable[..., Any],
    image: Tensor,
    text: Tensor,
    scale: Any,
    bias: Any,
    targets: Tensor | None,
    label_smoothing: float,
    row_grad: Tensor | None,
    needs: Sequence[bool],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """By an entry ``contrastive_sigmoid``."""
    per_row = image.new_zeros((1, image.shape[0]), dtype=torch.float32) if needs[0] else None
    of_image, of_text, sums = _outputs(image, text, needs[1:], dtype)
    _run(
        entry, unit_last_stride(image), unit_last_stride(text), scale, bias, targets, label_smoothing,
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
        make(tensor.shape, dtype=dtype, device=tensor.device) if need else None
        for tensor, need in zip((image, text), needs, strict=False)
    )
    return of_image, of_text, image.new_zeros(2, dtype=torch.float64) if needs[2] or needs[3] else None


def _given(like: Tensor, result: Tensor | None, index: int | None = None) -> Tensor:
    """The result, or one number of it, or (0,) where nothing was asked for."""
    if result is None:
        return like.new_empty(0)
    return result if index is None else result[index]


def _run(entry: Callable[..., Any], *args: Any) -> None:
    try:
        entry(*args)
    except RuntimeError as error:
        _native.reraise(error)
