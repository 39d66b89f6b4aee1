"""Contrastive losses in plain torch: THE definition, forward and explicit backward, and the same differentiable.

With x_ij = logit_scale * image_i . text_j and t the positives, the two kinds are

    softmax (CLIP):    row_i = lse_j(x_ij) - sum_j a_ij x_ij,  a_ij = (1 - e) t_ij / |t_i| + e / M,  0 if row i has no
                       positive; col_j the same over i; loss_i = (row_i + col_i) / 2
    sigmoid (SigLIP):  loss_i = sum_j [ -log sigmoid(u_ij) + e/2 u_ij ],  u_ij = +-(x_ij + logit_bias), + for positives

with e the label smoothing; "mean" divides the sum over rows by N (and that over columns by M).

`statistics`, `gradients` and `sigmoid` walk over blocks of BLOCK rows and never hold more than a few (BLOCK, M) pieces.
The columns' log-sum-exp is carried from block to block as (maximum, sum of exponentials), the online softmax of Milakov
and Gimelshein (2018). Maximum and log of the sum are kept apart for the backward: x - max is exact where x is the
maximum, so that a confident pair's probability and loss are not rounded to the size of its logit. The backward computes
every block again (as Dao et al., 2022, do for attention); blocks come in a fixed order, so results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.backend import Problem
from mmkernels.ops.contrastive.statistics import (
    Side,
    Statistics,
    reduce_rows,
    reduce_softmax,
    safe_shift,
)
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
    """The loss from the whole matrix of logits, differentiable to any order; raises as `statistics` does."""
    check_targets(targets, text.shape[0])
    rows, columns = image.shape[0], text.shape[0]
    logits = matmul(image, text.t(), image.dtype) * logit_scale
    positive = positives(targets, columns, 0, rows, image.device)
    if kind == "sigmoid":
        x = logits if logit_bias is None else logits + logit_bias
        u = torch.where(positive, x, -x)
        per_row = (label_smoothing / 2 * u - F.logsigmoid(u)).sum(1)
        return reduce_rows(per_row, reduction)
    row_count, column_count = counts(targets, rows, columns, logits)
    row_loss = _direction_loss(logits, positive, row_count, label_smoothing)
    column_loss = _direction_loss(logits.t(), positive.t(), column_count, label_smoothing)
    return reduce_softmax(row_loss, column_loss, reduction)


def _direction_loss(logits: Tensor, positive: Tensor, count: Tensor, label_smoothing: float) -> Tensor:
    if logits.numel() == 0:
        return logits.new_zeros(logits.shape[0]) + logits.sum()
    share = positive.to(logits.dtype) / count.clamp(min=1)[:, None]
    weight = (1 - label_smoothing) * share + label_smoothing / logits.shape[1]
    return torch.where(count > 0, -(weight * torch.log_softmax(logits, 1)).sum(1), 0)


def _blocks(image: Tensor, text: Tensor) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """(start, stop, image rows, dot products of these with every text), the products for the caller to overwrite."""
    for start in range(0, image.shape[0], BLOCK):
        stop = min(start + BLOCK, image.shape[0])
        rows = image[start:stop]
        yield start, stop, rows, matmul(rows, text.t(), image.dtype)


def _widen_once(text: Tensor) -> Tensor:
    """A CPU multiplies in fp32: convert the side that every block reads once, not once per block."""
    return text if text.is_cuda else text.to(accumulate_dtype(text.dtype))


def statistics(
    image: Tensor, text: Tensor, logit_scale: Tensor, targets: Tensor | None, totals: bool
) -> tuple[Statistics, Statistics]:
    """What the softmax kind needs of every row and of every column.

    Raises:
        ValueError: an index in `targets` is M or more (checked on the CPU only, where reading it is free).
    """
    check_targets(targets, text.shape[0])
    rows, columns = image.shape[0], text.shape[0]
    text, scale = _widen_once(text), logit_scale.to(accumulate_dtype(image.dtype))
    row, column = (Statistics.of_nothing(n, image, totals) for n in (rows, columns))
    if rows == 0 or columns == 0:
        return row, column
    column_max, column_sum = column.stats[0], torch.zeros_like(column.hit)

    for start, stop, _, x in _blocks(image, text):
        x.mul_(scale)
        if targets is None:
            diagonal = x.diagonal(start)
            row.hit[start:stop] = diagonal
            column.hit[start:stop] += diagonal
        else:
            hit = torch.where(positives(targets, columns, start, stop, x.device), x, 0)
            row.hit[start:stop] = hit.sum(1)
            column.hit.add_(hit.sum(0))
            del hit
        if row.total is not None and column.total is not None:
            row.total[start:stop] = x.sum(1)
            column.total.add_(x.sum(0))
        # Rows are complete in their block; columns are carried on
        row_max = x.amax(1)
        row.stats[0, start:stop] = row_max
        row.stats[1, start:stop] = (x - safe_shift(row_max)[:, None]).exp_().sum(1).log()
        new_max = torch.maximum(column_max, x.amax(0))
        shift = safe_shift(new_max)
        column_sum = column_sum * (column_max - shift).exp() + x.sub_(shift).exp_().sum(0)
        column_max = new_max

    return row, column._replace(stats=torch.stack((column_max, column_sum.log())))


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
    total = _Gradients(image, text, logit_scale, needs, dtype)
    for start, stop, rows, dot in _blocks(image, total.text):
        x = dot * total.scale
        total.add(start, rows, dot, _softmax_slope(x, targets, start, row_side.block(start, stop), column_side, levels))
    return total.finish()[:3]


def _softmax_slope(x: Tensor, targets: Tensor | None, start: int, row: Side, column: Side, levels: bool) -> Tensor:
    """d loss / d x of the block from row `start`: both directions' (probability - target)."""
    dx = row.probability(x)
    dx += column.probability(x)
    if targets is None:
        dx.diagonal(start).sub_(row.hit.squeeze(1) + column.hit[start : start + len(dx)])
    else:
        dx -= positives(targets, x.shape[1], start, start + len(x), x.device) * (row.hit + column.hit)
    return dx.sub_(row.level + column.level) if levels else dx


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
    """The loss of every row; from the rows' gradients, those of image and text (in `dtype`), scale and bias.

    What is needed of these five; without `row_grad` the loss only. Raises as `statistics` does.
    """
    check_targets(targets, text.shape[0])
    per_row = image.new_zeros(image.shape[0] if needs[0] else 0, dtype=accumulate_dtype(image.dtype))
    total = _Gradients(image, text, logit_scale, needs[1:], dtype)
    for start, stop, rows, dot in _blocks(image, total.text):
        x = dot * total.scale
        if logit_bias is not None:
            x.add_(logit_bias.to(x.dtype))
        u = _signed(x, targets, start, stop)
        if needs[0]:
            per_row[start:stop] = -F.logsigmoid(u).sum(1)
            if label_smoothing:
                per_row[start:stop] += u.sum(1) * (label_smoothing / 2)
        if row_grad is not None:
            slope = torch.sigmoid_(u.neg_()).sub_(label_smoothing / 2).mul_(row_grad[start:stop, None])
            total.add(start, rows, dot, _signed(slope.neg_(), targets, start, stop))
    return per_row, *total.finish()


def _signed(x: Tensor, targets: Tensor | None, start: int, stop: int) -> Tensor:
    """x where positive, -x elsewhere; overwrites x."""
    if targets is None:
        x.neg_().diagonal(start).neg_()
        return x
    return torch.where(positives(targets, x.shape[1], start, stop, x.device), x, -x)


class _Gradients:
    """Sums over blocks of rows of what d loss / d x puts on the operands."""

    def __init__(self, image: Tensor, text: Tensor, logit_scale: Tensor, needs: Sequence[bool], dtype: torch.dtype):
        acc = accumulate_dtype(image.dtype)
        self.text, self.scale, self.needs, self.operand = _widen_once(text), logit_scale.to(acc), needs, image.dtype
        self.of_image = image.new_empty(image.shape if needs[0] else (0,), dtype=dtype)
        self.of_text = text.new_zeros(text.shape if needs[1] else (0,), dtype=acc)
        self.of_scale, self.of_bias = torch.zeros_like(self.scale), torch.zeros_like(self.scale)

    def add(self, start: int, rows: Tensor, dot: Tensor, dx: Tensor) -> None:
        """A block of rows; overwrites dx."""
        if self.needs[0]:
            self.of_image[start : start + len(rows)] = matmul(dx, self.text, self.operand) * self.scale
        if self.needs[1]:
            self.of_text += matmul(dx.t(), rows, self.operand)
        if self.needs[3]:
            self.of_bias += dx.sum()
        if self.needs[2]:
            self.of_scale += dx.mul_(dot).sum()

    def finish(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.of_image, (self.of_text * self.scale).to(self.of_image.dtype), self.of_scale, self.of_bias
