"""The contrastive losses as anybody would write them, over the whole matrix of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """The definition in the docstring of contrastive_loss, word for word."""
    logits = scale * image @ text.T
    t = target_matrix(targets, *logits.shape)
    if kind == "sigmoid":
        if bias is not None:
            logits = logits + bias
        y = (1 - label_smoothing) * t.to(logits) + label_smoothing / 2
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
    generator = torch.Generator().manual_seed(3)
    if name == "index":
        targets = torch.randint(-1, columns, (rows,), generator=generator)
        targets[:3] = torch.tensor([-1, columns - 1, columns - 1])
        return targets
    matrix = torch.rand(rows, columns, generator=generator) < 0.3
    matrix[1], matrix[:, 2] = False, False
    return matrix


def embeddings(rows: int, columns: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """image and text of length one, logit_scale and logit_bias, all wanting gradients."""
    made = [F.normalize(torch.randn(n, width, dtype=torch.float64), dim=1).to(dtype) for n in (rows, columns)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    made += [torch.tensor(14.3, dtype=wide), torch.tensor(-7.0, dtype=wide)]
    return [tensor.requires_grad_() for tensor in made]
