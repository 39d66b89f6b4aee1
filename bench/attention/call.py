"""The operands of an attention case."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.attention.inputs import Inputs
from bench.attention.problems import Problem


@dataclass
class Call:
    """Operands of a case, leaves of gradients where it has a backward."""

    inputs: Inputs
    backward: bool
    grads: list[Tensor] = field(default_factory=list)
    """The gradient of every output."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the operands."""
        return self.inputs.dtype


def make_call(problem: Problem, dtype: str, backward: bool, seed: int = 0, device: str = "cpu") -> Call:
    """The operands of a problem, and random gradients of its outputs."""
    inputs = problem.make(getattr(torch, dtype), seed).to(device)
    if not backward:
        return Call(inputs, False)
    inputs = inputs.replaced({name: leaf.detach().requires_grad_() for name, leaf in inputs.leaves().items()})
    random = torch.Generator().manual_seed(seed + 1)
    dim_v = inputs.values[0].shape[-1]
    grads = []
    for query in inputs.queries:
        batch = query.shape[:1] if problem.function == "varlen" else (max(query.shape[0], problem.batch),)
        shape = (*batch, *query.shape[1:-1], dim_v)
        grads.append(torch.randn(shape, generator=random).to(inputs.dtype).to(device))
    return Call(inputs, True, grads)
