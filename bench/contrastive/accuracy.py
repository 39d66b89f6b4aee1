"""What the contrastive losses are held to: the whole call in fp64, by the rule of the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.accuracy import Reference
from bench.contrastive.plain import PLAIN
from bench.contrastive.problems import Call


def reference(call: Call) -> Reference:
    """fp64 results, and the rule's bounds around them; the naive path is in the dtype of the call."""
    from tests.tolerance import tolerance

    expected, naive = _results(call, torch.float64), _results(call, call.dtype)
    terms = _terms(call)
    bounds = {}
    for name, tensor in expected.items():
        dtype = call.dtype if name in ("grad image", "grad text") else torch.float32
        outer, inner = terms[name]
        bounds[name] = tolerance(dtype, tensor, naive[name], outer, inner)
    return Reference(expected, bounds)


def _results(call: Call, dtype: torch.dtype) -> dict[str, Tensor]:
    leaves = {}
    for name, leaf in call.leaves().items():
        wide = dtype if leaf.dtype == call.dtype or dtype == torch.float64 else leaf.dtype
        leaves[name] = leaf.detach().to(wide).requires_grad_(call.backward)
    plain = next(iter(PLAIN[call.kind].values()))
    loss = plain(leaves["image"], leaves["text"], leaves["scale"], leaves.get("bias"))
    found = {"loss": loss.detach()}
    if call.backward:
        found |= {f"grad {name}": grad for name, grad in zip(leaves, torch.autograd.grad(loss, list(leaves.values())))}
    return found


@torch.no_grad()
def _terms(call: Call) -> dict[str, tuple[Tensor, Tensor]]:
    """By result: the absolute products behind it, and those of its logits, each as far as the result depends on it.

    A logit x with slope s = d loss / d x moves the loss by s dx, and a slope by about as much: probabilities are
    exponentials. Slopes are sums of probabilities and targets, whose magnitudes are added here.
    """
    no_bias = torch.zeros_like(call.scale)
    image, text, scale, bias = (
        x.double() for x in (call.image, call.text, call.scale, no_bias if call.bias is None else call.bias)
    )
    rows, products = len(image), image.abs() @ text.abs().t()
    logits, sizes = scale * (image @ text.t()) + bias, scale.abs() * products + bias.abs()
    if call.kind == "softmax":
        slopes = (logits.softmax(0) + logits.softmax(1)).div_(2 * rows)
        slopes.diagonal().add_(1 / rows)
    else:
        logits.diagonal().neg_()
        slopes = logits.sigmoid_().div_(rows)
    moved = slopes * sizes

    def gathered(weights: Tensor) -> dict[str, Tensor]:
        return {
            "grad image": scale.abs() * (weights @ text.abs()),
            "grad text": scale.abs() * (weights.t() @ image.abs()),
            "grad scale": (weights * products).sum(),
            "grad bias": weights.sum(),
        }

    outer, inner = ({"loss": moved.sum(), **gathered(weights)} for weights in (slopes, moved))
    outer["loss"] = outer["loss"] + 1  # of the row's sum, whose logarithm is taken
    return {name: (outer[name], inner[name]) for name in outer}
