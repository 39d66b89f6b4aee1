"""The tolerance rule of `tests/tolerance.py` for contrastive_loss: what it allows for one call, element by element.

`terms` are what a result sums, after the exponentials: losses, and slopes d loss / d logit times embeddings. `inner`
are those of the logits, through each probability p: a relative error of p is the absolute one of its logit, of its
row's sum and of the exponent x - max. A probability below fp32's smallest normal number may be 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.contrastive.naive import OPERANDS, Case, fused, naive, results_of, target_matrix
from tests.one_chain import faults_in_any_order
from tests.tolerance import explain, tolerance

SMALLEST = 2.0**-103


class Expectation:
    """What the rule allows for the loss and every gradient of one call."""

    def __init__(self, case: Case, operands: Sequence[Tensor | None], grad: Tensor | None = None) -> None:
        self.case, self.operands = case, list(operands)
        self.call = case.call()
        wide, low = (
            [None if t is None else t.detach().to(dtype).requires_grad_() for t in operands]
            for dtype in (torch.float64, torch.float32)
        )
        loss = naive(*wide, *self.call)
        if grad is None:
            grad = torch.randn(loss.shape, generator=torch.Generator().manual_seed(1))
        self.grad = grad
        self.reference = results_of(loss, wide, grad)
        self._low = low
        self.naive = self._naive()
        self.terms, self.inner = absolute_sums(case, wide, grad.double(), self.call[0])

    def run(self, backend: str | None, device: str = "cpu") -> dict[str, Tensor]:
        """The call's results, forward and backward."""
        operands, (targets, *options) = self.operands, self.call
        if device != "cpu":
            operands = [None if t is None else t.detach().to(device).requires_grad_() for t in operands]
            targets = None if targets is None else targets.to(device)
        loss = fused(operands, targets, *options, backend=backend)
        found = results_of(loss, operands, self.grad.to(device))
        return {name: tensor.cpu() for name, tensor in found.items()}

    def check(self, backend: str | None, device: str = "cpu") -> dict[str, Tensor]:
        """Run the call on a backend and hold every result to the rule; returns the results."""
        found = self.run(backend, device)
        faults = self.faults(found)
        assert not faults, "\n".join([*faults, repr(self.case)])
        return found

    def faults(self, found: Mapping[str, Tensor]) -> list[str]:
        """Sentences that say how results break the rule, in whichever order the naive path adds."""
        return faults_in_any_order(partial(self._faults, found), self._naive, self.naive, self.reference)

    def _naive(self) -> dict[str, Tensor]:
        return results_of(naive(*self._low, *self.call), self._low, self.grad)

    def _faults(self, found: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> list[str]:
        faults = []
        dtypes = {"loss": torch.float32} | {
            name: tensor.dtype for name, tensor in zip(OPERANDS, self.operands) if tensor is not None
        }
        assert found.keys() == dtypes.keys()
        for name, tensor in found.items():
            if tensor.dtype != dtypes[name]:
                faults.append(f"{name} has dtype {tensor.dtype}, expected {dtypes[name]}")
                continue
            bound = tolerance(
                tensor.dtype, self.reference[name], plain[name].to(tensor.dtype), self.terms[name],
                self.inner[name],
            )  # fmt: skip
            faults += explain(name, tensor, self.reference[name], bound)
        return faults


def absolute_sums(
    case: Case, operands: Sequence[Tensor | None], grad: Tensor, targets: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(terms, inner) behind the loss and every gradient, from the fp64 operands."""
    image, text, scale, bias = (None if t is None else t.detach() for t in operands)
    dot = image.abs() @ text.abs().T
    logits = scale * image @ text.T
    products = scale.abs() * dot
    positive = target_matrix(targets, case.rows, case.columns)
    sides = [(logits, products, positive, case.rows, grad)]
    if case.kind == "sigmoid":
        side = _sigmoid_side
        if bias is not None:
            sides = [(logits + bias, products + bias.abs(), positive, case.rows, grad)]
    else:
        side = _softmax_side
        sides.append((logits.T, products.T, positive.T, case.columns, grad))
    losses: list[list[Tensor]] = [[], []]
    slopes = [torch.zeros_like(logits), torch.zeros_like(logits)]
    for i, (x, size, t, count, g) in enumerate(sides):
        per_row = (g / max(count, 1) if case.reduction == "mean" else g).abs().expand(count)[:, None] / len(sides)
        for kind, (loss, slope) in enumerate(side(x, size, t, case.smoothing, per_row)):
            total = {"none": loss, "sum": loss.sum(), "mean": loss.sum() / max(count, 1)}[case.reduction]
            losses[kind].append(total / len(sides))
            slopes[kind] = slopes[kind] + (slope.T if i else slope)
    results = []
    for loss, slope in zip(losses, slopes, strict=True):
        sums = {
            "loss": torch.stack(loss).sum(0),
            "image": scale.abs() * slope @ text.abs(),
            "text": scale.abs() * slope.T @ image.abs(),
            "scale": (slope * dot).sum(),
        }
        if bias is not None:
            sums["bias"] = slope.sum() if case.kind == "sigmoid" else torch.zeros((), dtype=torch.float64)
        results.append(sums)
    return results[0], results[1]


def _softmax_side(x: Tensor, size: Tensor, positive: Tensor, smoothing: float, grad: Tensor) -> list:
    """[(terms, slope terms), (inner, inner of the slope)] of the cross entropy of each row."""
    columns = x.shape[1]
    share = (1 - smoothing) * positive / positive.sum(1, keepdim=True).clamp(min=1) + smoothing / max(columns, 1)
    there = positive.any(1)[:, None]
    below = x.amax(1, keepdim=True) - x
    p = x.softmax(1).clamp(min=SMALLEST)
    log_sum = x.logsumexp(1, keepdim=True) - x.amax(1, keepdim=True)
    terms = (share * below).sum(1, keepdim=True) + log_sum.abs()
    row = (p * (size + below)).sum(1, keepdim=True)
    inner = row + (share * size).sum(1, keepdim=True)
    slope = grad * there * (p + share)
    slope_inner = grad * there * (p * (1 + size + below + log_sum.abs() + row) + share)
    return [((there * terms).squeeze(1), slope), ((there * inner).squeeze(1), slope_inner)]


def _sigmoid_side(x: Tensor, size: Tensor, positive: Tensor, smoothing: float, grad: Tensor) -> list:
    """The same of the sum over each row of binary cross entropies."""
    u = torch.where(positive, x, -x)
    p = torch.sigmoid(-u).clamp(min=SMALLEST)
    half = smoothing / 2
    terms = F.softplus(-u).abs() + half * u.abs()
    inner = (p + half) * size
    return [(terms.sum(1), grad * (p + half)), (inner.sum(1), grad * (p * (1 + size) + half))]
