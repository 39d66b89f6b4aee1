"""Fusion of modalities by concatenation."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.nn.common import Backed, check_activation, check_count, check_inputs, check_widths, listed
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
    `projections.<i>`, `norm`, `gate`. For inference, `folded()` takes the projections into the weight.
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
        # A width of 0 is legal, as it is in the op: a modality that a configuration leaves out.
        self.in_features = check_widths("in_features", listed(in_features), least=0)
        self.out_features, self.backend = check_count("out_features", out_features, 0), backend
        for name, value, known in (("norm", norm, tuple(NORMS)), ("gate", gate, GATES)):
            if value is not None and value not in known:
                raise ValueError(f"{name} must be None or one of {known}, got {value!r}")
        targets = [project] * len(self.in_features) if project is None or isinstance(project, int) else list(project)
        if len(targets) != len(self.in_features):
            raise ValueError(f"project must hold {len(self.in_features)} widths, one per input, got {len(targets)}")
        for i, target in enumerate(targets):
            if target is not None:
                check_count(f"project[{i}]", target, 0)
        self.projections = nn.ModuleList(
            [
                nn.Identity() if target is None else nn.Linear(width, target, bias, **place)
                for width, target in zip(self.in_features, targets, strict=True)
            ]
        )
        self.widths = [w if target is None else target for w, target in zip(self.in_features, targets, strict=True)]
        self.activation = check_activation(activation)
        self.weight = nn.Parameter(torch.empty(out_features, sum(self.widths), **place))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, **place)) if bias else None)
        self.norm = None if norm is None else NORMS[norm](sum(self.widths), **place)
        shape = (out_features,) if gate == "vector" else ()
        self.register_parameter("gate", None if gate is None else nn.Parameter(torch.ones(shape, **place)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias as `nn.Linear` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(max(self.weight.shape[1], 1))
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, inputs: Sequence[Tensor], residual: Tensor | None = None, gate: Tensor | float | None = None
    ) -> Tensor:
        """The fused features, (..., out_features).

        Args:
            inputs: list of (..., in_features[i]).
            residual: broadcasts to the output.
            gate: of this call, in place of a learned one: a number or a tensor that broadcasts to the output.
        """
        check_inputs(inputs, self.in_features)
        if gate is not None and self.gate is not None:
            raise ValueError("gate must be None in a call of a module that was made with a learned gate")
        return concat_fusion(
            [projection(x) for projection, x in zip(self.projections, inputs, strict=True)],
            self.weight,
            self.bias,
            norm=self.norm,
            activation=self.activation,
            gate=self.gate if gate is None else gate,
            residual=residual,
            backend=self.backend,
        )

    @torch.no_grad()
    def folded(self) -> ConcatFusion:
        """A new module without projections that computes the same: a projection and its slice of the weight are one.

        Equivalent, for the slices `w[i]` of the weight::

            weight = torch.cat([w[i] @ projections[i].weight for i in range(n)], 1)
            bias = bias + sum(w[i] @ projections[i].bias for i in range(n))

        computed in fp64 and rounded once to the dtype of `weight`. The new module shares nothing with this one, and its
        parameters want no gradient: it is what this module computes now, for inference, and does not follow later
        training or loading. Inputs without a projection keep their slice; the result can be folded again.

        A projection from width k to p costs p * (k + out_features) multiplications a row of its input, folded
        k * out_features: the folding saves time where p > k * out_features / (k + out_features), which every p from
        min(k, out_features) on is, and costs time behind a narrower one.

        Raises:
            ValueError: a norm stands between projections and weight, or a projection is no longer an `nn.Linear`.
        """
        self._check_foldable()
        row = None if self.bias is None else self.bias.to(torch.float64, copy=True)
        parts = list(self.weight.double().split(self.widths, 1))
        for i, projection in enumerate(self.projections):
            if isinstance(projection, nn.Linear):
                if projection.bias is not None:
                    constant = parts[i] @ projection.bias.double()
                    row = constant if row is None else row + constant
                parts[i] = parts[i] @ projection.weight.double()
        # On the meta device nothing is drawn from torch's generator for weights that are replaced at once.
        fused = ConcatFusion(
            self.in_features, self.out_features, activation=self.activation, bias=False, backend=self.backend,
            device=torch.device("meta"),
        )  # fmt: skip
        kept = self.weight if self.bias is None else self.bias
        fused.weight = _frozen(torch.cat(parts, 1).to(self.weight.dtype))
        fused.bias = None if row is None else _frozen(row.to(kept.dtype))
        fused.gate = None if self.gate is None else _frozen(self.gate.clone())
        fused.norm = None if self.norm is None else copy.deepcopy(self.norm).requires_grad_(False)
        return fused.train(self.training)

    def _check_foldable(self) -> None:
        for i, projection in enumerate(self.projections):
            if isinstance(projection, nn.Identity):
                continue
            if type(projection).forward is not nn.Linear.forward:
                raise ValueError(f"projections[{i}] must be an nn.Linear to be folded, got {type(projection).__name__}")
            if self.norm is not None:
                raise ValueError(
                    f"norm must be None for projections to be folded: {type(self.norm).__name__} stands between them "
                    "and the weight, and is not linear"
                )

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, activation={self.activation}"


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
