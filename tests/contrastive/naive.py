"""The contrastive losses as anybody would write them, over the whole matrix of logits, and the calls of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import mmkernels as mmk
from tests.layouts import laid_out

KINDS = ("softmax", "sigmoid")
OPERANDS = ("image", "text", "scale", "bias")
POSITIVES = ("pairs", "index", "several", "nobody", "everybody")


@dataclass(frozen=True)
class Case:
    """One call: its sizes, options, and the size and layout of its numbers."""

    rows: int
    columns: int
    width: int
    kind: str = "softmax"
    positives: str = "pairs"
    smoothing: float = 0.0
    reduction: str = "mean"
    scale: float = 14.3
    bias: float | None = -7.0
    length: float = 1.0  # of every embedding
    layouts: tuple[str, str] = ("contiguous", "contiguous")
    targets_layout: str = "contiguous"

    def operands(self, dtype: torch.dtype, seed: int = 0) -> list[Tensor | None]:
        """image, text, scale and bias, all wanting gradients; the last two in fp32 for 16-bit embeddings."""
        random = torch.Generator().manual_seed(seed)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        made: list[Tensor | None] = []
        for n, layout in zip((self.rows, self.columns), self.layouts, strict=True):
            x = F.normalize(torch.randn(n, self.width, dtype=torch.float64, generator=random), dim=1) * self.length
            made.append(laid_out(x.to(dtype).requires_grad_(), layout))
        for number in (self.scale, self.bias):
            made.append(None if number is None else torch.tensor(number, dtype=wide, requires_grad=True))
        return made

    def targets(self) -> Tensor | None:
        targets = targets_of(self.positives, self.rows, self.columns)
        if targets is None or self.targets_layout == "contiguous":
            return targets
        if self.targets_layout == "expanded":  # every row has the positives of the first
            return targets[:1].expand_as(targets)
        if targets.dim() == 2 and self.targets_layout == "transposed":
            return targets.T.contiguous().T
        room = targets.new_ones((*targets.shape[:-1], 2 * targets.shape[-1] + 1))
        room[..., 1::2] = targets
        return room[..., 1::2]

    def call(self) -> tuple[Tensor | None, str, float, str]:
        return self.targets(), self.kind, self.smoothing, self.reduction


def target_matrix(targets: Tensor | None, rows: int, columns: int) -> Tensor:
    """Bool (N, M) of the positives."""
    if targets is None:
        return torch.eye(rows, dtype=torch.bool)
    if targets.dtype == torch.bool:
        return targets
    matrix = torch.zeros(rows, columns, dtype=torch.bool)
    for row, column in enumerate(targets.tolist()):
        if column >= 0:
            matrix[row, column] = True
    return matrix


def naive(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    targets: Tensor | None = None,
    kind: str = "softmax",
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The definition in the docstring of contrastive_loss."""
    logits = scale * image @ text.T
    t = target_matrix(targets, *logits.shape)
    if kind == "sigmoid":
        if bias is not None:
            logits = logits + bias
        y = (1 - label_smoothing) * t.to(logits) + label_smoothing / 2
        if logits.dtype == torch.float64:  # the reference: torch's own has 0 instead of e^x where x is very negative
            zero = torch.zeros_like(logits)
            rows = (y * torch.logaddexp(zero, -logits) + (1 - y) * torch.logaddexp(zero, logits)).sum(1)
        else:
            rows = F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(1)
        return {"mean": rows.mean, "sum": rows.sum, "none": rows.clone}[reduction]()

    def direction(x: Tensor, t: Tensor) -> Tensor:
        share = (1 - label_smoothing) * t.to(x) / t.sum(1, keepdim=True).clamp(min=1) + label_smoothing / x.shape[1]
        return torch.where(t.any(1), -(share * x.log_softmax(1)).sum(1), 0)

    rows, columns = direction(logits, t), direction(logits.T, t.T)
    if reduction == "none":
        return (rows + columns) / 2
    return (rows.mean() + columns.mean()) / 2 if reduction == "mean" else (rows.sum() + columns.sum()) / 2


def targets_of(name: str, rows: int, columns: int) -> Tensor | None:
    """Positives by name: "pairs"; "index" with doubles and gaps; "several", with empty rows and columns."""
    if name == "pairs":
        return None
    if name in ("nobody", "everybody"):
        return torch.full((rows, columns), name == "everybody")
    generator = torch.Generator().manual_seed(3)
    if name == "index":
        targets = torch.randint(-1, columns, (rows,), generator=generator)
        targets[:3] = torch.tensor([-1, columns - 1, columns - 1])[:rows]
        return targets
    matrix = torch.rand(rows, columns, generator=generator) < 0.3
    matrix[1:2], matrix[:, 2:3] = False, False
    return matrix


def fused(
    operands: Sequence[Tensor | None], targets: Tensor | None = None, kind: str = "softmax", smoothing: float = 0.0,
    reduction: str = "mean", backend: str | None = None,
) -> Tensor:  # fmt: skip
    """The call under test, of [image, text, logit_scale, logit_bias]."""
    image, text, scale, bias = operands
    return mmk.contrastive_loss(
        image, text, scale, kind=kind, logit_bias=bias, targets=targets, label_smoothing=smoothing,
        reduction=reduction, backend=backend,
    )  # fmt: skip


def gradients(loss: Tensor, operands: Sequence[Tensor | None], grad: Tensor) -> list[Tensor | None]:
    """Of the operands that are there; zeros for one that the loss does not depend on."""
    there = [tensor for tensor in operands if tensor is not None]
    found = torch.autograd.grad(loss, there, grad.to(loss.dtype), allow_unused=True, materialize_grads=True)
    rest = iter(found)
    return [None if tensor is None else next(rest) for tensor in operands]


def results_of(loss: Tensor, operands: Sequence[Tensor | None], grad: Tensor) -> dict[str, Tensor]:
    """The loss and the gradients of the operands that are there, by name."""
    found = zip(OPERANDS, gradients(loss, operands, grad), strict=True)
    return {"loss": loss.detach(), **{name: tensor for name, tensor in found if tensor is not None}}


def embeddings(rows: int, columns: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """image and text of length one, logit_scale and logit_bias, all wanting gradients."""
    made = [F.normalize(torch.randn(n, width, dtype=torch.float64), dim=1).to(dtype) for n in (rows, columns)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    made += [torch.tensor(14.3, dtype=wide), torch.tensor(-7.0, dtype=wide)]
    return [tensor.requires_grad_() for tensor in made]
