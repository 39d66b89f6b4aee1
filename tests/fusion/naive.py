"""Concat-fusion as anybody would write it, and the cases that the tests walk through."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

import mmkernels as mmk
from tests.layouts import laid_out

ACTIVATIONS = {
    None: lambda y: y,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
EPS = 1e-5


@dataclass(frozen=True)
class Case:
    """One call: shapes (None leaves an operand out), how its numbers lie in memory, and how large they are."""

    inputs: tuple[tuple[int, ...], ...]
    out: int = 6
    bias: bool = True
    norm: str | None = None
    activation: str | None = None
    gate: tuple[int, ...] | None = None
    residual: tuple[int, ...] | None = None
    affine: bool = True
    wide: bool = False  # bias, norm, gate and residual in fp32, whatever the dtype
    layouts: tuple[str, ...] = ()  # of the sources in turn
    other_layout: str = "contiguous"  # of everything else
    size: float = 1.0  # of sources and weight; "offset" is added to the sources
    offset: float = 0.0

    @property
    def width(self) -> int:
        return sum(shape[-1] for shape in self.inputs)

    def operands(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Operands:
        """The tensors, the same for the same seed, all of them wanting gradients."""
        random = torch.Generator().manual_seed(seed)
        parameter = torch.float32 if self.wide else dtype

        def make(shape: tuple[int, ...], dtype: torch.dtype, layout: str, size: float = 1.0, offset: float = 0.0):
            numbers = torch.randn(shape, dtype=torch.float64, generator=random) * size + offset
            return laid_out(numbers.to(dtype).requires_grad_(), layout)

        def other(*shape: int) -> Tensor:
            return make(shape, parameter, self.other_layout)

        layouts = itertools.cycle(self.layouts or ("contiguous",))
        inputs = [
            make(shape, dtype, layout, self.size, self.offset)
            for shape, layout in zip(self.inputs, layouts, strict=False)
        ]
        # The product of a row is of the size of one element, so that no activation is always saturated.
        weight = make((self.out, self.width), dtype, self.other_layout, self.size / max(self.width, 1) ** 0.5)
        affine = self.norm is not None and self.affine
        rest = {
            "weight": weight,
            "bias": other(self.out) if self.bias else None,
            "norm_weight": other(self.width) if affine else None,
            "norm_bias": other(self.width) if affine and self.norm == "layer" else None,
            "gate": None if self.gate is None else other(*self.gate),
            "residual": None if self.residual is None else other(*self.residual),
        }
        return Operands(inputs, rest)


@dataclass
class Operands:
    """The tensors of one call, named."""

    inputs: list[Tensor]
    rest: dict[str, Tensor | None] = field(default_factory=dict)

    def named(self) -> dict[str, Tensor]:
        named = {f"inputs[{i}]": x for i, x in enumerate(self.inputs)}
        return named | {name: tensor for name, tensor in self.rest.items() if tensor is not None}

    def on(self, device: str) -> Operands:
        """Themselves on the CPU."""
        return self if device == "cpu" else self.to(device)

    def to(self, what: torch.dtype | str) -> Operands:
        """Copies of another dtype or on another device."""

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(what).requires_grad_()

        return Operands([cast(x) for x in self.inputs], {name: cast(t) for name, t in self.rest.items()})


def fused(case: Case, operands: Operands, **options: object) -> Tensor:
    """The call under test."""
    rest = operands.rest
    norm = None
    if case.norm == "layer":
        norm = mmk.LayerNorm(rest["norm_weight"], rest["norm_bias"], EPS)
    elif case.norm == "rms":
        norm = mmk.RMSNorm(rest["norm_weight"], EPS)
    return mmk.concat_fusion(
        operands.inputs, rest["weight"], rest["bias"], norm=norm, activation=case.activation, gate=rest["gate"],
        residual=rest["residual"], **options,
    )  # fmt: skip


def naive(case: Case, operands: Operands) -> Tensor:
    """The same in plain torch, with the concatenation built."""
    rest = operands.rest
    rows = torch.broadcast_shapes(*(x.shape[:-1] for x in operands.inputs))
    x = torch.cat([x.expand(*rows, -1) for x in operands.inputs], -1)
    if case.norm == "layer":
        x = F.layer_norm(x, x.shape[-1:], rest["norm_weight"], rest["norm_bias"], EPS)
    elif case.norm == "rms":
        x = F.rms_norm(x, x.shape[-1:], rest["norm_weight"], EPS)
    y = ACTIVATIONS[case.activation](F.linear(x, rest["weight"], rest["bias"]))
    if rest["gate"] is not None:
        y = rest["gate"] * y
    return y if rest["residual"] is None else rest["residual"] + y


def gradients(out: Tensor, operands: Operands, grad: Tensor) -> dict[str, Tensor]:
    named = operands.named()
    found = torch.autograd.grad(
        out, list(named.values()), grad.to(out.dtype), allow_unused=True, materialize_grads=True
    )
    return dict(zip(named, found, strict=True))


# One case for every branch: who broadcasts, who is absent, which norm, which activation, which shape of gate.
CASES = {
    "plain": Case(((4, 5), (4, 3))),
    "one source": Case(((2, 3, 5),), norm="layer"),
    "no bias": Case(((4, 5), (4, 3)), bias=False),
    "broadcast": Case(((2, 3, 5), (2, 1, 4), (7,))),
    "only broadcast": Case(((1, 3, 5), (2, 1, 4)), norm="layer", gate=(), residual=(2, 3, 6)),
    "layer": Case(((2, 3, 5), (2, 3, 4)), norm="layer", activation="gelu"),
    "layer broadcast": Case(((2, 3, 5), (2, 1, 4), (7,)), norm="layer", activation="silu", gate=(3, 1)),
    "layer without affine": Case(((2, 3, 5), (2, 1, 4)), norm="layer", affine=False, bias=False),
    "rms": Case(((2, 3, 5), (2, 3, 4)), norm="rms", activation="tanh"),
    "rms broadcast": Case(((2, 3, 5), (2, 1, 4), (7,)), norm="rms", gate=(6,), residual=(1, 3, 1)),
    "rms without affine": Case(((2, 3, 5), (2, 1, 4)), norm="rms", affine=False),
    "zero width": Case(((2, 3, 0), (2, 1, 4)), norm="layer", activation="relu"),
    "gate": Case(((2, 3, 5),), gate=(2, 1, 6)),
    "scalar gate": Case(((2, 3, 5), (2, 1, 4)), activation="sigmoid", gate=(), residual=(6,)),
    "gelu_tanh": Case(((4, 5),), activation="gelu_tanh", residual=(4, 6)),
    "vectors": Case(((5,), (3,)), norm="layer", activation="gelu", gate=(6,)),
    "four axes": Case(((2, 1, 3, 5), (1, 4, 1, 2), (4, 3, 3)), norm="rms", activation="relu"),
}
