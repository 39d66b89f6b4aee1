"""What a loss makes of the statistics of rows and columns: O(batch), the same for every backend.

A backend walks over the logits, in three functions (see `reference.py`): `statistics` and `gradients` for the softmax
kind, `sigmoid` for the other, whose slopes need no statistics: a sweep leaves losses, gradients or both. `forward_with`
and `backward_with` make the op of them, `forward_and_gradients_with` both at once where a sweep can.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkernels.ops.contrastive.targets import counts
from mmkernels.precision import accumulate_dtype, without_autocast

LOSSES = (True, False, False, False, False)
"""What is needed of a backend's `sigmoid`."""


class Statistics(NamedTuple):
    """What the softmax kind keeps of every row (or column) of logits x, in the accumulation dtype.

    Statistics of no logits are -inf, -inf, 0, 0.
    """

    stats: Tensor
    """(2, n): maximum, and log of the sum of exp(x - maximum)."""
    hit: Tensor
    """(n,): sum of x over the positives."""
    total: Tensor | None
    """(n,): sum of x over all; None where no label is smoothed."""

    @classmethod
    def of_nothing(cls, length: int, like: Tensor, totals: bool) -> Statistics:
        """Before any logit was seen."""
        stats = like.new_full((2, length), -torch.inf, dtype=accumulate_dtype(like.dtype))
        hit = torch.zeros_like(stats[0])
        return cls(stats, hit, torch.zeros_like(hit) if totals else None)

    def losses(self, count: Tensor | None, label_smoothing: float, width: int) -> Tensor:
        """Of rows with `count` positives (None: one) among `width` columns.

        That is lse(x) less the mean over the positives, smoothed with the mean over all; 0 where there is no positive.
        """
        target = self.hit if count is None else self.hit / count.clamp(min=1)
        if label_smoothing:
            target = target * (1 - label_smoothing)
        if self.total is not None:
            target = target + self.total * (label_smoothing / max(width, 1))
        maximum, log_sum = self.stats.unbind()
        loss = (maximum - target) + log_sum
        return loss if count is None else torch.where(count > 0, loss, 0)


def safe_shift(maximum: Tensor) -> Tensor:
    """What exp(x - shift) takes for the maximum: where every x is -inf the sum is 0, not NaN."""
    return torch.where(maximum == -torch.inf, 0, maximum)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the same rows over two disjoint sets of columns, as over their union."""
    maximum = torch.maximum(a.stats[0], b.stats[0])
    shift = safe_shift(maximum)
    log_sum = torch.logaddexp(a.stats[1] + (a.stats[0] - shift), b.stats[1] + (b.stats[0] - shift))
    total = None if a.total is None or b.total is None else a.total + b.total
    return Statistics(torch.stack((maximum, log_sum)), a.hit + b.hit, total)


class Side(NamedTuple):
    """What one direction of the softmax loss puts on the logits of its rows (or columns), each (n,).

    d loss / d x = grad * exp(x - maximum - log_sum) - hit * t - level
    """

    maximum: Tensor
    log_sum: Tensor
    grad: Tensor
    hit: Tensor
    level: Tensor

    @classmethod
    def of(cls, stats: Tensor, grad: Tensor, count: Tensor | None, label_smoothing: float, width: int) -> Side:
        """From (maximum, log_sum) and the gradient of each row's loss; a row without positives has none."""
        grad = grad / 2 if count is None else torch.where(count > 0, grad / 2, 0)
        hit = grad * (1 - label_smoothing) if label_smoothing else grad
        if count is not None:
            hit = hit / count.clamp(min=1)
        maximum, log_sum = stats.unbind()
        return cls(maximum, log_sum, grad, hit, grad * (label_smoothing / max(width, 1)))

    def block(self, start: int, stop: int) -> Side:
        """The rows [start, stop), standing upright."""
        return Side(*(part[start:stop, None] for part in self))

    def probability(self, x: Tensor) -> Tensor:
        """grad * softmax(x)."""
        return (x - self.maximum).sub_(self.log_sum).exp_().mul_(self.grad)


def reduce_rows(rows: Tensor, reduction: str) -> Tensor:
    """A loss of every row, reduced."""
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / max(len(rows), 1)


def grad_of_rows(grad: Tensor, rows: int, reduction: str) -> Tensor:
    """The gradient of every row's loss from that of the reduced one."""
    return (grad / max(rows, 1) if reduction == "mean" else grad).expand(rows)


def reduce_softmax(rows: Tensor, columns: Tensor, reduction: str) -> Tensor:
    """The losses of both directions, reduced and averaged."""
    return (reduce_rows(rows, reduction) + reduce_rows(columns, reduction)) / 2


@without_autocast
def forward_with(
    kernels: ModuleType | Any,
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    label_smoothing: float,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, row statistics (2, N), column statistics (2, M)): maximum and log of the sum of exp(x - maximum).

    The statistics have shape (0,) for the sigmoid kind.

    Raises:
        ValueError: an index in `targets` is M or more (checked on the CPU only, where reading it is free).
    """
    if kind == "sigmoid":
        call = (image, text, logit_scale, logit_bias, targets, label_smoothing)
        loss = reduce_rows(kernels.sigmoid(*call, None, LOSSES, accumulate_dtype(image.dtype))[0], reduction)
        return loss, loss.new_empty(0), loss.new_empty(0)
    rows, columns = image.shape[0], text.shape[0]
    sides = kernels.statistics(image, text, logit_scale, targets, label_smoothing > 0)
    if rows == 0 or columns == 0:
        row_zeros, column_zeros = (torch.zeros_like(side.stats) for side in sides)
        return reduce_softmax(row_zeros[0], column_zeros[0], reduction), row_zeros, column_zeros
    row_count, column_count = (None, None) if targets is None else counts(targets, rows, columns, image)
    loss = reduce_softmax(
        sides[0].losses(row_count, label_smoothing, columns),
        sides[1].losses(column_count, label_smoothing, rows),
        reduction,
    )
    return loss, sides[0].stats, sides[1].stats


@without_autocast
def forward_and_gradients_with(
    kernels: ModuleType | Any,
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None,
    label_smoothing: float,
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, gradients of image, text, logit_scale, logit_bias where the loss has 1): the sigmoid kind in one sweep.

    Not for reduction="none", where no gradient of 1 stands for all. Gradients are not yet rounded to operands' dtypes;
    shape (0,) where `needs` says no.
    """
    rows, acc = image.shape[0], accumulate_dtype(image.dtype)
    row_grad = grad_of_rows(image.new_ones((), dtype=acc), rows, reduction)
    call = (image, text, logit_scale, logit_bias, targets, label_smoothing)
    per_row, *grads = kernels.sigmoid(*call, row_grad, (True, *needs), acc)
    image_grad, text_grad, scale_grad, bias_grad = grads
    return reduce_rows(per_row, reduction), image_grad, text_grad, scale_grad, bias_grad


@without_autocast
def backward_with(
    kernels: ModuleType | Any,
    grad_loss: Tensor,
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    label_smoothing: float,
    reduction: str,
    row_stats: Tensor,
    column_stats: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (image, text, logit_scale, logit_bias), shape (0,) where `needs` says no."""
    rows, columns, acc = image.shape[0], text.shape[0], accumulate_dtype(image.dtype)
    row_grad = grad_of_rows(grad_loss.to(acc), rows, reduction)
    if kind == "sigmoid":
        call = (image, text, logit_scale, logit_bias, targets, label_smoothing)
        grads = kernels.sigmoid(*call, row_grad, (False, *needs), image.dtype)[1:]
    else:
        column_grad = grad_of_rows(grad_loss.to(acc), columns, reduction)
        row_count, column_count = (None, None) if targets is None else counts(targets, rows, columns, image)
        row_side = Side.of(row_stats, row_grad, row_count, label_smoothing, columns)
        column_side = Side.of(column_stats, column_grad, column_count, label_smoothing, rows)
        grads = (
            *kernels.gradients(
                image, text, logit_scale, targets, row_side, column_side, label_smoothing > 0, needs, image.dtype
            ),
            torch.zeros_like(logit_scale, dtype=acc),  # the softmax does not depend on the bias
        )
    operands = (image, text, logit_scale, logit_bias)
    image_grad, text_grad, scale_grad, bias_grad = (
        image.new_empty(0) if operand is None or not need else grad.to(operand.dtype)
        for operand, need, grad in zip(operands, needs, grads, strict=True)
    )
    return image_grad, text_grad, scale_grad, bias_grad
