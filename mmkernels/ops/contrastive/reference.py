"""Contrastive losses in plain torch: THE definition, forward and explicit backward, and the same differentiable.

With x_ij = logit_scale * image_i . text_j and t the positives, the two kinds are

    softmax (CLIP):    row_i = lse_j(x_ij) - sum_j a_ij x_ij,  a_ij = (1 - e) t_ij / |t_i| + e / M,  0 if row i has no
                       positive; col_j the same over i; loss_i = (row_i + col_i) / 2
    sigmoid (SigLIP):  loss_i = sum_j [ -log sigmoid(u_ij) + e/2 u_ij ],  u_ij = +-(x_ij + logit_bias), + for positives

with e the label smoothing; "mean" divides the sum over rows by N (and that over columns by M).

`forward` and `backward` walk over blocks of BLOCK rows and never hold more than a few (BLOCK, M) pieces. The columns'
log-sum-exp is carried from block to block as (maximum, sum of exponentials), the online softmax of Milakov and
Gimelshein (2018). Maximum and log of the sum are kept apart for the backward: x - max is exact where x is the maximum,
so that a confident pair's probability and loss are not rounded to the size of its logit. The backward computes every
block again (as Dao et al., 2022, do for attention); blocks come in a fixed order, so results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.backend import Problem
from mmkernels.ops.contrastive.targets import check_targets, counts, positives
from mmkernels.precision import accumulate_dtype, matmul, without_autocast

BLOCK = 256
KINDS = ("softmax", "sigmoid")
REDUCTIONS = ("mean", "sum", "none")


def why_not(problem: Problem) -> list[str]:
    """The reference runs every problem."""
    return []


@without_autocast
def contrastive_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    label_smoothing: float,
    reduction: str,
) -> Tensor:
    """The loss from the whole matrix of logits, differentiable to any order; raises as `forward` does."""
    check_targets(targets, text.shape[0])
    rows, columns = image.shape[0], text.shape[0]
    logits = matmul(image, text.t(), image.dtype) * logit_scale
    positive = positives(targets, columns, 0, rows, image.device)
    if kind == "sigmoid":
        x = logits if logit_bias is None else logits + logit_bias
        u = torch.where(positive, x, -x)
        per_row = (label_smoothing / 2 * u - F.logsigmoid(u)).sum(1)
        return {"mean": per_row.sum() / max(rows, 1), "sum": per_row.sum(), "none": per_row}[reduction]
    row_count, column_count = counts(targets, rows, columns, logits)
    row_loss = _direction_loss(logits, positive, row_count, label_smoothing)
    column_loss = _direction_loss(logits.t(), positive.t(), column_count, label_smoothing)
    return _reduce_softmax(row_loss, column_loss, reduction)


def _direction_loss(logits: Tensor, positive: Tensor, count: Tensor, label_smoothing: float) -> Tensor:
    if logits.numel() == 0:
        return logits.new_zeros(logits.shape[0]) + logits.sum()
    share = positive.to(logits.dtype) / count.clamp(min=1)[:, None]
    weight = (1 - label_smoothing) * share + label_smoothing / logits.shape[1]
    return torch.where(count > 0, -(weight * torch.log_softmax(logits, 1)).sum(1), 0)


def _reduce_softmax(row_loss: Tensor, column_loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return (row_loss + column_loss) / 2
    if reduction == "sum":
        return (row_loss.sum() + column_loss.sum()) / 2
    return (row_loss.sum() / max(len(row_loss), 1) + column_loss.sum() / max(len(column_loss), 1)) / 2


def _blocks(image: Tensor, text: Tensor) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """(start, stop, image rows, dot products of these with every text), the products for the caller to overwrite."""
    for start in range(0, image.shape[0], BLOCK):
        stop = min(start + BLOCK, image.shape[0])
        rows = image[start:stop]
        yield start, stop, rows, matmul(rows, text.t(), image.dtype)


def _widen_once(text: Tensor) -> Tensor:
    """A CPU multiplies in fp32: convert the side that every block reads once, not once per block."""
    return text if text.is_cuda else text.to(accumulate_dtype(text.dtype))


@without_autocast
def forward(
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
    check_targets(targets, text.shape[0])
    if kind == "sigmoid":
        loss = _sigmoid_forward(image, text, logit_scale, logit_bias, targets, label_smoothing, reduction)
        return loss, loss.new_empty(0), loss.new_empty(0)
    return _softmax_forward(image, text, logit_scale, targets, label_smoothing, reduction)


def _softmax_forward(
    image: Tensor, text: Tensor, logit_scale: Tensor, targets: Tensor | None, smoothing: float, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns, acc = image.shape[0], text.shape[0], accumulate_dtype(image.dtype)
    text, scale = _widen_once(text), logit_scale.to(acc)
    row_stats, column_stats = (image.new_zeros((2, n), dtype=acc) for n in (rows, columns))
    row_target, column_target = (image.new_zeros(n, dtype=acc) for n in (rows, columns))
    column_max = image.new_full((columns,), -torch.inf, dtype=acc)
    column_sum = torch.zeros_like(column_max)
    row_count, column_count = counts(targets, rows, columns, image)
    if rows == 0 or columns == 0:
        return _reduce_softmax(row_target, column_target, reduction), row_stats, column_stats

    for start, stop, _, x in _blocks(image, text):
        x.mul_(scale)
        # What the loss subtracts: the mean over the positives, smoothed with the mean over all
        if targets is None:
            diagonal = x.diagonal(start)
            row_target[start:stop] = diagonal * (1 - smoothing)
            column_target[start:stop] += diagonal * (1 - smoothing)
        else:
            hit = x * positives(targets, columns, start, stop, x.device)
            row_target[start:stop] = hit.sum(1) * ((1 - smoothing) / row_count[start:stop].clamp(min=1))
            column_target += hit.sum(0) * ((1 - smoothing) / column_count.clamp(min=1))
            del hit
        if smoothing:
            row_target[start:stop] += x.sum(1) * (smoothing / columns)
            column_target += x.sum(0) * (smoothing / rows)
        # Rows are complete in their block; columns are carried on
        row_max = x.amax(1)
        row_stats[0, start:stop] = row_max
        row_stats[1, start:stop] = (x - row_max[:, None]).exp_().sum(1).log()
        new_max = torch.maximum(column_max, x.amax(0))
        column_sum = column_sum * (column_max - new_max).exp() + x.sub_(new_max).exp_().sum(0)
        column_max = new_max

    column_stats[0], column_stats[1] = column_max, column_sum.log()
    row_loss = torch.where(row_count > 0, (row_stats[0] - row_target) + row_stats[1], 0)
    column_loss = torch.where(column_count > 0, (column_stats[0] - column_target) + column_stats[1], 0)
    return _reduce_softmax(row_loss, column_loss, reduction), row_stats, column_stats


def _sigmoid_forward(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None,
    smoothing: float,
    reduction: str,
) -> Tensor:
    acc = accumulate_dtype(image.dtype)
    per_row = image.new_zeros(image.shape[0], dtype=acc)
    text, scale = _widen_once(text), logit_scale.to(acc)
    for start, stop, _, x in _blocks(image, text):
        x.mul_(scale)
        if logit_bias is not None:
            x.add_(logit_bias.to(acc))
        u = _signed(x, targets, start, stop)
        per_row[start:stop] = -F.logsigmoid(u).sum(1)
        if smoothing:
            per_row[start:stop] += u.sum(1) * (smoothing / 2)
    return {"mean": per_row.sum() / max(len(per_row), 1), "sum": per_row.sum(), "none": per_row}[reduction]


def _signed(x: Tensor, targets: Tensor | None, start: int, stop: int) -> Tensor:
    """x where positive, -x elsewhere; overwrites x."""
    if targets is None:
        x.neg_().diagonal(start).neg_()
        return x
    return torch.where(positives(targets, x.shape[1], start, stop, x.device), x, -x)


class _Side(NamedTuple):
    """What one direction of the softmax loss puts on the logits of its rows (or columns), each (rows, 1) or (columns,).

    d loss / d x = grad * exp(x - maximum - log_sum) - hit * t - level
    """

    maximum: Tensor
    log_sum: Tensor
    grad: Tensor
    hit: Tensor
    level: Tensor

    @classmethod
    def of(cls, stats: Tensor, grad: Tensor, count: Tensor, smoothing: float, width: int) -> _Side:
        """From the gradient of each row's loss; a row without positives has none."""
        grad = torch.where(count > 0, grad / 2, 0)
        hit = grad * (1 - smoothing) / count.clamp(min=1)
        return cls(stats[0], stats[1], grad, hit, grad * (smoothing / max(width, 1)))

    def block(self, start: int, stop: int) -> _Side:
        """The rows [start, stop), standing upright."""
        return _Side(*(part[start:stop, None] for part in self))

    def probability(self, x: Tensor) -> Tensor:
        """grad * softmax(x)."""
        return (x - self.maximum).sub_(self.log_sum).exp_().mul_(self.grad)


@without_autocast
def backward(
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
    wide_text, scale, grad = _widen_once(text), logit_scale.to(acc), grad_loss.to(acc)
    row_grad = (grad / max(rows, 1) if reduction == "mean" else grad).expand(rows)
    if kind == "softmax":
        column_grad = (grad / max(columns, 1) if reduction == "mean" else grad).expand(columns)
        row_count, column_count = counts(targets, rows, columns, image)
        row_side = _Side.of(row_stats, row_grad, row_count, label_smoothing, columns)
        column_side = _Side.of(column_stats, column_grad, column_count, label_smoothing, rows)
    empty = image.new_empty(0)
    grad_image = torch.empty_like(image, memory_format=torch.contiguous_format) if needs[0] else empty
    grad_text = text.new_zeros(text.shape, dtype=acc) if needs[1] else empty.clone()
    grad_scale, grad_bias = torch.zeros_like(scale), torch.zeros_like(scale)

    for start, stop, image_rows, dot in _blocks(image, wide_text):
        x = dot * scale
        if kind == "softmax":
            dx = _softmax_slope(x, targets, start, row_side.block(start, stop), column_side, label_smoothing > 0)
        else:
            if logit_bias is not None:
                x.add_(logit_bias.to(acc))
            u = _signed(x, targets, start, stop)
            slope = torch.sigmoid_(u.neg()).sub_(label_smoothing / 2).mul_(row_grad[start:stop, None])
            dx = _signed(slope.neg_(), targets, start, stop)
            if needs[3]:
                grad_bias += dx.sum()
        if needs[0]:
            grad_image[start:stop] = matmul(dx, wide_text, image.dtype) * scale
        if needs[1]:
            grad_text += matmul(dx.t(), image_rows, image.dtype)
        if needs[2]:
            grad_scale += dx.mul_(dot).sum()

    return (
        grad_image,
        (grad_text * scale).to(text.dtype) if needs[1] else grad_text,
        grad_scale.to(logit_scale.dtype) if needs[2] else empty.clone(),
        grad_bias.to(logit_bias.dtype) if needs[3] and logit_bias is not None else empty.clone(),
    )


def _softmax_slope(x: Tensor, targets: Tensor | None, start: int, row: _Side, column: _Side, smoothed: bool) -> Tensor:
    """d loss / d x of the block from row `start`: both directions' (probability - target)."""
    dx = row.probability(x)
    dx += column.probability(x)
    if targets is None:
        dx.diagonal(start).sub_(row.hit.squeeze(1) + column.hit[start : start + len(dx)])
    else:
        dx -= positives(targets, x.shape[1], start, start + len(x), x.device) * (row.hit + column.hit)
    return dx.sub_(row.level + column.level) if smoothed else dx
