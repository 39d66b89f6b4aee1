"""What the tolerance rule (tests/tolerance.py) allows for one contrastive_loss call: reference, naive path and terms.

With L the absolute products behind a logit: a gradient's terms are |d loss / d x|, probabilities and targets added up,
against the other embeddings; its inner terms the same with each probability multiplied by its own L and its row's mean
one. A loss has its lse and its targets for terms, and their L for inner ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.contrastive.naive import naive, target_matrix
from tests.tolerance import explain, tolerance

NAMES = ("loss", "image", "text", "scale", "bias")


def results_of(loss: Tensor, operands: list[Tensor], grad: Tensor) -> dict[str, Tensor]:
    """The loss and its gradients by name."""
    grads = torch.autograd.grad(loss, operands, grad.to(loss.dtype), allow_unused=True, materialize_grads=True)
    return dict(zip(NAMES, (loss.detach(), *grads), strict=True))


class Expected:
    """Reference, naive results and terms of a call; call: (targets, kind, smoothing, reduction)."""

    def __init__(self, operands: list[Tensor], call: tuple[Any, ...], grad: Tensor) -> None:
        wide, plain = ([t.detach().to(d).requires_grad_() for t in operands] for d in (torch.float64, torch.float32))
        self.reference = results_of(naive(*wide, *call), wide, grad.double())
        self.naive = results_of(naive(*plain, *call), plain, grad)
        self.terms, self.inner = self._terms([t.detach() for t in wide], call, grad.double())

    def faults(self, found: dict[str, Tensor]) -> list[str]:
        """Sentences that say how results break the rule."""
        faults = []
        for name, tensor in found.items():
            bound = tolerance(
                tensor.dtype,
                self.reference[name],
                self.naive[name].to(tensor.dtype),
                self.terms[name],
                self.inner[name],
            )
            faults += explain(name, tensor, self.reference[name], bound)
        return faults

    def _terms(self, wide: list[Tensor], call: tuple[Any, ...], grad: Tensor) -> tuple[dict[str, Tensor], ...]:
        image, text, scale, bias = wide
        targets, kind, smoothing, reduction = call
        dots = image.abs() @ text.abs().T
        size, logits = scale.abs() * dots, scale * image @ text.T
        t = target_matrix(targets, *logits.shape).double()
        if kind == "sigmoid":
            y = (1 - smoothing) * t + smoothing / 2
            size, p = size + bias.abs(), torch.sigmoid(logits + bias)
            weight = _per_row(grad, reduction, len(image))[:, None]
            slope, inner = weight * (p + y), weight * p * (1 - p) * size
            losses = [((logits + bias).abs().sum(1), (size * (p + y)).sum(1))]
        else:
            slope = inner = torch.zeros_like(logits)
            losses = []
            for axis in (1, 0):
                count = t.sum(axis, keepdim=True)
                share = (1 - smoothing) * t / count.clamp(min=1) + smoothing / logits.shape[axis]
                weight = (_per_row(grad, reduction, count.numel()) / 2).reshape(count.shape) * (count > 0)
                p = logits.softmax(axis)
                slope = slope + weight * (p + share)
                inner = inner + weight * p * (size + (p * size).sum(axis, keepdim=True))
                terms = logits.logsumexp(axis).abs() + (share * logits.abs()).sum(axis)
                losses.append((terms / 2, ((p + share) * size).sum(axis) / 2))
        found = []
        for x, index in ((slope, 0), (inner, 1)):
            loss: Any = sum(_per_loss(pair[index], reduction) for pair in losses)
            found.append({
                "loss": loss, "image": scale.abs() * x @ text.abs(), "text": scale.abs() * x.T @ image.abs(),
                "scale": (x * dots).sum(), "bias": x.sum(),
            })  # fmt: skip
        return found[0], found[1]


def _per_row(grad: Tensor, reduction: str, rows: int) -> Tensor:
    return grad.abs().expand(rows) / (rows if reduction == "mean" else 1)


def _per_loss(rows: Tensor, reduction: str) -> Tensor:
    return {"mean": rows.mean, "sum": rows.sum, "none": rows.clone}[reduction]()
