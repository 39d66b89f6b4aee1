"""A contrastive loss in blocks: local images against local or remote texts, merged. For losses over several processes.

Internal. The logits of a large batch are cut into blocks, a shard of images (rows) against a shard of texts (columns).
Where a block is computed does not matter; only O(batch) numbers and the texts themselves travel::

    parts = [block_statistics(image, text, scale, row_offset=r, column_offset=c) for c, text in shards]
    rows = merge(merge(parts[0].rows, parts[1].rows), ...)      # of this process; columns: merged over all processes
    loss = rows.losses(label_smoothing, columns).sum() ...      # columns: texts of all shards
    row_side = rows.side(grad, label_smoothing, columns)        # grad: of every row's loss, (n,)
    grads = [block_gradients(image, text, scale, row_side, column_side, row_offset=r, ...) for ...]  # add them up

The mean loss is (sum of the rows' losses / N + sum of the columns' / M) / 2, so grad is 1 / N (and 1 / M); `side` puts
in the 2. Blocks of the sigmoid kind need no merge: the losses of a row are added up.

Results agree with those of the unsharded call within the tolerance, not bit for bit: they are other sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmkernels.ops.contrastive import op
from mmkernels.ops.contrastive import statistics as formulas
from mmkernels.ops.contrastive.statistics import Side, Statistics
from mmkernels.ops.contrastive.targets import counts
from mmkernels.precision import accumulate_dtype

ALL = (True, True, True, True)


class Direction(NamedTuple):
    """Statistics of rows (or columns) over the columns (rows) seen so far, and how many of these are positives."""

    statistics: Statistics
    positives: Tensor

    def losses(self, label_smoothing: float, width: int) -> Tensor:
        """The loss of every row; `width`: how many columns there are over all blocks."""
        return self.statistics.losses(self.positives, label_smoothing, width)

    def side(self, grad: Tensor, label_smoothing: float, width: int) -> Side:
        """What `block_gradients` takes of this direction; grad: of every row's loss in 2 * the total."""
        return Side.of(self.statistics.stats, grad, self.positives, label_smoothing, width)


class BlockStatistics(NamedTuple):
    """Both directions of a block."""

    rows: Direction
    columns: Direction


def merge(a: Direction, b: Direction) -> Direction:
    """The same rows over two disjoint sets of columns, by log-sum-exp."""
    return Direction(formulas.merge(a.statistics, b.statistics), a.positives + b.positives)


def block_targets(
    targets: Tensor | None, rows: int, columns: int, row_offset: int, column_offset: int, device: torch.device
) -> Tensor:
    """The positives of a block, as a backend takes them.

    targets: None (image and text of the same number in the whole batch), int64 (rows,) with columns of the whole batch,
    or bool (rows, columns), the block's own.
    """
    if targets is not None and targets.dtype == torch.bool:
        return targets
    index = torch.arange(row_offset, row_offset + rows, device=device) if targets is None else targets
    local = torch.where(index < 0, -1, index - column_offset)
    return torch.where((local >= 0) & (local < columns), local, -1)


def block_statistics(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    targets: Tensor | None = None,
    *,
    row_offset: int = 0,
    column_offset: int = 0,
    label_smoothing: float = 0.0,
    backend: str | None = None,
) -> BlockStatistics:
    """Softmax kind: statistics of image (n, D) against text (m, D), in fp32 (fp64 for fp64).

    Their first rows are number `row_offset` and `column_offset` of the whole batch. `label_smoothing` only says whether
    sums of logits are wanted.
    """
    targets = block_targets(targets, len(image), len(text), row_offset, column_offset, image.device)
    kernels = op.select("forward", image, text, backend)
    rows, columns = kernels.statistics(image, text, logit_scale, targets, label_smoothing > 0)
    row_count, column_count = counts(targets, len(image), len(text), image)
    return BlockStatistics(Direction(rows, row_count), Direction(columns, column_count))


def block_gradients(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    row_side: Side,
    column_side: Side,
    targets: Tensor | None = None,
    *,
    row_offset: int = 0,
    column_offset: int = 0,
    label_smoothing: float = 0.0,
    needs: Sequence[bool] = ALL,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax kind: what this block adds to the gradients of its image, its text and of logit_scale, not yet rounded.

    The sides come from statistics that are merged over all blocks, of this block's rows and columns. Shape (0,) where
    `needs` says no.
    """
    targets = block_targets(targets, len(image), len(text), row_offset, column_offset, image.device)
    result: tuple[Tensor, Tensor, Tensor] = op.select("backward", image, text, backend).gradients(
        image, text, logit_scale, targets, row_side, column_side, label_smoothing > 0, needs, _sum_dtype(image)
    )
    return result


def block_sigmoid_losses(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None = None,
    *,
    row_offset: int = 0,
    column_offset: int = 0,
    label_smoothing: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Sigmoid kind: what this block adds to the loss of every row."""
    targets = block_targets(targets, len(image), len(text), row_offset, column_offset, image.device)
    call = (image, text, logit_scale, logit_bias, targets, label_smoothing)
    kernels = op.select("forward", image, text, backend)
    result: Tensor = kernels.sigmoid(*call, None, formulas.LOSSES, _sum_dtype(image))[0]
    return result


def block_sigmoid_gradients(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    row_grad: Tensor,
    targets: Tensor | None = None,
    *,
    row_offset: int = 0,
    column_offset: int = 0,
    label_smoothing: float = 0.0,
    needs: Sequence[bool] = ALL,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sigmoid kind: what this block adds to the gradients of image, text, scale and bias, not yet rounded."""
    targets = block_targets(targets, len(image), len(text), row_offset, column_offset, image.device)
    call = (image, text, logit_scale, logit_bias, targets, label_smoothing)
    kernels = op.select("backward", image, text, backend)
    result: tuple[Tensor, Tensor, Tensor, Tensor]
    result = kernels.sigmoid(*call, row_grad, (False, *needs), _sum_dtype(image))[1:]
    return result


def _sum_dtype(image: Tensor) -> torch.dtype:
    return accumulate_dtype(image.dtype)
