"""The named problems of concat-fusion, the operands of a call, and the work in it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.work import Work

EPS = 1e-5


@dataclass(frozen=True)
class Problem:
    """One call: a linear layer over sources side by side, plain or with everything around it."""

    name: str
    sources: tuple[tuple[int, ...], ...]
    """Shapes; leading axes broadcast, so that one vector an image stands beside its text tokens."""
    out: int
    full: bool = False
    """LayerNorm before, gelu, a gate of (out,) and a residual after."""

    @property
    def rows(self) -> tuple[int, ...]:
        """The joint leading shape."""
        return tuple(torch.broadcast_shapes(*(shape[:-1] for shape in self.sources)))

    @property
    def width(self) -> int:
        """Features of the concatenation."""
        return sum(shape[-1] for shape in self.sources)

    def scaled_down(self) -> Problem:
        """At most 5 of every axis of rows, 24 to 31 features a source (their remainder by 8 kept), 40 results."""
        sources = tuple((*(min(n, 5) for n in s[:-1]), min(s[-1], 24 + s[-1] % 8)) for s in self.sources)
        return replace(self, sources=sources, out=min(self.out, 40))


@dataclass(frozen=True, eq=False)
class Call:
    """Operands of a case, leaves of gradients where it has a backward."""

    inputs: list[Tensor]
    weight: Tensor
    bias: Tensor
    norm_weight: Tensor | None
    """With the three after it: all of them, or none."""
    norm_bias: Tensor | None
    gate: Tensor | None
    residual: Tensor | None
    grad: Tensor | None
    """Of the output; None: forward only."""

    @property
    def full(self) -> bool:
        """As `Problem.full`."""
        return self.norm_weight is not None

    @property
    def backward(self) -> bool:
        """Whether gradients are wanted."""
        return self.grad is not None

    @property
    def dtype(self) -> torch.dtype:
        """Of all operands."""
        return self.weight.dtype

    def operands(self) -> tuple[Any, ...]:
        """The list of inputs, and all the others in order."""
        return (
            self.inputs, self.weight, self.bias, self.norm_weight, self.norm_bias, self.gate, self.residual,
        )  # fmt: skip

    def leaves(self) -> dict[str, Tensor]:
        """Every operand by name."""
        named: dict[str, Tensor | None] = {f"input {n}": x for n, x in enumerate(self.inputs)}
        for name in ("weight", "bias", "norm_weight", "norm_bias", "gate", "residual"):
            named[name] = getattr(self, name)
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def replaced(self, leaves: dict[str, Tensor], grad: Tensor | None) -> Call:
        """The same call on other operands, by the names of `leaves`."""
        rest: dict[str, Any] = {name: leaf for name, leaf in leaves.items() if not name.startswith("input ")}
        inputs = [leaves[f"input {n}"] for n in range(len(self.inputs))]
        return replace(self, **rest, inputs=inputs, grad=grad)


def make_call(problem: Problem, dtype: str, backward: bool, seed: int = 0, device: str = "cpu") -> Call:
    """Normal inputs, a weight that keeps their size, gains around 1; all of one dtype, as in a model moved to it."""
    random = torch.Generator().manual_seed(seed)

    def made(shape: Iterable[int], size: float = 1.0, centre: float = 0.0) -> Tensor:
        tensor = torch.randn(*shape, generator=random) * size + centre
        return tensor.to(getattr(torch, dtype)).to(device).requires_grad_(backward)

    out = (*problem.rows, problem.out)
    inputs = [made(shape) for shape in problem.sources]
    weight, bias = made((problem.out, problem.width), problem.width**-0.5), made((problem.out,))
    grad = made(out).detach() if backward else None
    if not problem.full:
        return Call(inputs, weight, bias, None, None, None, None, grad)
    norm_weight, norm_bias = made((problem.width,), 0.1, 1.0), made((problem.width,), 0.1)
    return Call(inputs, weight, bias, norm_weight, norm_bias, made((problem.out,)), made(out), grad)


# ---- work ----


def work(call: Call) -> Work:
    """Operations and bytes of a call.

    A source is multiplied once for each of its own rows, however many rows of the result share it: a provider that
    expands it first computes more and shows a lower rate. Forward is one product; forward+backward three, with those
    for the inputs' and the weight's gradients. Norm and epilogue are not counted. Bytes: operands read and the result
    written; forward+backward: operands read again, the result's gradient read, gradients written (the residual's is
    the result's gradient, and the residual is not read again).
    """
    out = call.weight.shape[0]
    flops = sum(2 * x.numel() * out for x in call.inputs)
    rows = torch.broadcast_shapes(*(x.shape[:-1] for x in call.inputs))
    result = math.prod(rows) * out * call.weight.element_size()
    residual = 0 if call.residual is None else call.residual.nbytes
    operands = sum(leaf.nbytes for leaf in call.leaves().values()) - residual
    if call.backward:
        return Work(3 * flops, 3 * operands + residual + 2 * result)
    return Work(flops, operands + residual + result)


def facts(problem: Problem, work: Work) -> dict[str, Any]:
    """`saving`: operations over the expanded sources by those with each source at its own rows."""
    full = math.prod(problem.rows) * problem.width
    own = sum(math.prod(shape) for shape in problem.sources)
    return {"rows": math.prod(problem.rows), "width": problem.width, "out": problem.out, "saving": full / own}
