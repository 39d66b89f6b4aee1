"""The named problems of the contrastive loss, the operands of a call, and the work in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.work import Work

SCALE, BIAS = 14.3, -7.0
"""CLIP's first logit_scale, 1 / 0.07, and a logit_bias between SigLIP's first and its last."""


@dataclass(frozen=True)
class Problem:
    """A batch of pairs of embeddings."""

    name: str
    pairs: int
    dim: int = 512
    kind: str = "softmax"
    """Or "sigmoid"."""

    def scaled_down(self) -> Problem:
        """A batch of more than one block of rows, and the same remainder by 8."""
        return replace(self, pairs=min(self.pairs, 300 + self.pairs % 8), dim=min(self.dim, 32))


@dataclass(frozen=True, eq=False)
class Call:
    """Operands of a case, leaves of gradients where it has a backward."""

    kind: str
    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None
    """Of the sigmoid kind."""
    backward: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of the embeddings; scale and bias are fp32."""
        return self.image.dtype

    @property
    def grad(self) -> Tensor | None:
        """Of the loss: 1; None: forward only."""
        return torch.ones((), device=self.image.device) if self.backward else None

    def operands(self) -> tuple[Any, ...]:
        """In order, None where there is none."""
        return self.image, self.text, self.scale, self.bias

    def leaves(self) -> dict[str, Tensor]:
        """Every operand by name."""
        named = {"image": self.image, "text": self.text, "scale": self.scale}
        return named if self.bias is None else named | {"bias": self.bias}


def make_call(problem: Problem, dtype: str, backward: bool, seed: int = 0, device: str = "cpu") -> Call:
    """Embeddings of length one; that of a text is near its image's, as after some training."""
    random = torch.Generator().manual_seed(seed)
    image, other = (torch.randn(problem.pairs, problem.dim, generator=random) for _ in range(2))
    wide = torch.float64 if dtype == "float64" else torch.float32

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.to(device).requires_grad_(backward)

    image, text = (F.normalize(x, dim=1).to(getattr(torch, dtype)) for x in (image, image + other))
    scale, bias = (torch.tensor(value, dtype=wide) for value in (SCALE, BIAS))
    sigmoid = problem.kind == "sigmoid"
    return Call(problem.kind, leaf(image), leaf(text), leaf(scale), leaf(bias) if sigmoid else None, backward)


# ---- work ----


def work(call: Call) -> Work:
    """Operations and bytes of a call.

    Forward is one product over all pairs, forward+backward that and one for each side's gradient; the softmax kind's
    comes again, four in all (a loss that keeps no logits computes them anew, as attention does). Exponentials are not
    counted. Bytes: the embeddings read; forward+backward: read twice, their gradients written.
    """
    (rows, dim), columns = call.image.shape, call.text.shape[0]
    flops = 2 * rows * columns * dim
    size = call.image.nbytes + call.text.nbytes
    if not call.backward:
        return Work(flops, size)
    return Work((4 if call.kind == "softmax" else 3) * flops, 3 * size)


def facts(problem: Problem, work: Work) -> dict[str, Any]:
    """Shape and kind."""
    return {"pairs": problem.pairs, "dim": problem.dim, "kind": problem.kind}
