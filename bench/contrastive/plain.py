"""The contrastive losses in torch: over the whole matrix of logits, and in chunks of its rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(image, text, scale, bias) -> the mean loss."""


def softmax_transposed(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """CLIP's loss from one matrix of logits and its transpose."""
    logits = scale * (image @ text.t())
    pairs = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.t(), pairs)) / 2


def softmax_twice(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """CLIP's loss from two products, as its code has it: the second costs a product and saves a transposition."""
    pairs = torch.arange(len(image), device=image.device)
    rows, columns = scale * (image @ text.t()), scale * (text @ image.t())
    return (F.cross_entropy(rows, pairs) + F.cross_entropy(columns, pairs)) / 2


def sigmoid_signs(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """SigLIP's loss as it was published: a matrix of signs, + on the diagonal."""
    logits = _with_bias(image, text, scale, bias)
    signs = 2 * torch.eye(len(image), dtype=logits.dtype, device=image.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(image)


def sigmoid_softplus(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """The same without the matrix of signs: -log sigmoid(x) = softplus(x) - x."""
    logits = _with_bias(image, text, scale, bias)
    return (F.softplus(logits).sum() - logits.diagonal().sum()) / len(image)


def _with_bias(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    logits = scale * (image @ text.t())
    return logits if bias is None else logits + bias


PLAIN: dict[str, dict[str, Loss]] = {
    "softmax": {"one product": softmax_transposed, "two products": softmax_twice},
    "sigmoid": {"signs": sigmoid_signs, "softplus": sigmoid_softplus},
}
"""By kind, then by way."""


def chunked(chunk: int) -> Loss:
    """CLIP's loss over `chunk` rows of logits at a time, which the backward computes again: torch's own checkpoints.

    Every chunk gives its rows' log-sum-exp, its share of the columns', and the logits of its pairs.
    """

    def part(image: Tensor, text: Tensor, scale: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        logits = scale * (image @ text.t()).float()
        # A view of the diagonal would keep the chunk's logits until the end.
        return logits.logsumexp(1), logits.logsumexp(0), logits.diagonal(start).clone()

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        parts = [
            checkpoint(part, rows, text, scale, chunk * index, use_reentrant=False)
            for index, rows in enumerate(image.split(chunk))
        ]
        rows, shares, pairs = zip(*parts)
        return ((torch.cat(rows) + torch.stack(shares).logsumexp(0)) / 2 - torch.cat(pairs)).mean()

    return loss
