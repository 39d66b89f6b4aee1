"""Fusion of modalities by concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.nn.common import Backed, check_list, listed
from mmkernels.ops.fusion.activation import ACTIVATIONS
from mmkernels.ops.fusion.api import concat_fusion

NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
GATES = ("scalar", "vector")


class ConcatFusion(Backed, nn.Module):
    """Linear layer over several modalities side by side, whose concatenation is never built.

    Equivalent::

        parts = [projection(x) for projection, x in zip(projections, inputs)]      # where asked for
        y = gate * activation(F.linear(norm(torch.cat(parts, -1)), weight, bias))
        y = residual + y                                                           # where given

    Inputs broadcast against each other on every axis but the last: a vector per image, (B, 1, K), beside text tokens.

    Args:
        in_features: width of every input.
        out_features: width of the output.
        project: width to which every input is projected first: one for all, or a list in which None leaves an input
            as it is. None: no projections.
        norm: "layer" or "rms", over the concatenated features; None for none.
        activation: gelu, gelu_tanh, relu, silu, tanh, sigmoid, or None.
        gate: "scalar" or "vector": a learned factor, 1 at the start; None for none.
        bias: whether linear layers have biases.
        backend: name of a backend, or None.

    Parameters: `weight` (out_features, sum of widths) and `bias`, as an `nn.Linear` in this place has them,
    `projections.<i>`, `norm`, `gate`.
    """

    bias: Tensor | None
    gate: Tensor | None

    def __init__(
        self,
        in_features: Sequence[int],
        out_features: int,
        *,
        project: int | Sequence[int | None] | None = None,
        norm: str | None = None,
        activation: str | None = None,
        gate: str | None = None,
        bias: bool = True,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: Any = {"device": device, "dtype": dtype}
        self.in_features, self.out_features, self.backend = listed(in_features), out_features, backend
        if not self.in_features:
            raise ValueError("in_features must hold the width of at least one input, got an empty list")
        for name, value, known in (("norm", norm, tuple(NORMS)), ("gate", gate, GATES)):
            if value is not None and value not in known:
                raise ValueError(f"{name} must be None or one of {known}, got {value!r}")
        if activation is not None and activation not in ACTIVATIONS[1:]:
            raise ValueError(f"activation must be None or one of {ACTIVATIONS[1:]}, got {activation!r}")
        targets = [project] * len(self.in_features) if project is None or isinstance(project, int) else list(project)
        if len(targets) != len(self.in_features):
            raise ValueError(f"project must hold {len(self.in_features)} widths, one per input, got {len(targets)}")
        self.projections = nn.ModuleList(
            [
                nn.Identity() if target is None else nn.Linear(width, target, bias, **place)
                for width, target in zip(self.in_features, targets, strict=True)
            ]
        )
        widths = [w if target is None else target for w, target in zip(self.in_features, targets, strict=True)]
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(out_features, sum(widths), **place))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, **place)) if bias else None)
        self.norm = None if norm is None else NORMS[norm](sum(widths), **place)
        shape = (out_features,) if gate == "vector" else ()
        self.register_parameter("gate", None if gate is None else nn.Parameter(torch.ones(shape, **place)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias as `nn.Linear` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(max(self.weight.shape[1], 1))
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: Sequence[Tensor], residual: Tensor | None = None) -> Tensor:
        """inputs: list of (..., in_features[i]); residual broadcasts to the output, (..., out_features)."""
        check_list("inputs", inputs, len(self.in_features))
        for i, (x, width) in enumerate(zip(inputs, self.in_features, strict=True)):
            if not isinstance(x, Tensor) or x.dim() == 0 or x.shape[-1] != width:
                found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(f"inputs[{i}] has {found}, expected a tensor (..., {width})")
        return concat_fusion(
            [projection(x) for projection, x in zip(self.projections, inputs, strict=True)],
            self.weight,
            self.bias,
            norm=self.norm,
            activation=self.activation,
            gate=self.gate,
            residual=residual,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, activation={self.activation}"
