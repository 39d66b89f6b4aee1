"""Fusion behind a gate: one that the modalities set themselves, and one that a condition sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.nn.common import (
    Composite,
    check_activation,
    check_count,
    check_features,
    check_inputs,
    check_joint,
    check_widths,
)
from mmkernels.nn.fusion import ConcatFusion
from mmkernels.ops.fusion.activation import activate


class GatedMultimodalUnit(Composite):
    """Sum of the modalities' features, each weighed, feature by feature, by gates that see all modalities.

    Equivalent, for two modalities and for any other number::

        x = torch.cat(inputs, -1)
        h = [torch.tanh(linear(x_i)) for linear, x_i in zip(hidden, inputs)]

        z = torch.sigmoid(gates[0](x))                                            # two
        y = z * h[0] + (1 - z) * h[1]

        y = sum(torch.sigmoid(gate(x)) * h_i for gate, h_i in zip(gates, h))      # three or more

    The concatenation is never built. Inputs broadcast against each other on every axis but the last; features of an
    input are computed at its own shape.

    Args:
        in_features: width of every input, two or more.
        out_features: width of the output.
        bias: whether linear layers have biases (the paper's equations have none).
        backend: name of a backend, or None.

    Parameters: `hidden.<i>.weight` (out_features, in_features[i]), `gates.<i>.weight` (out_features, sum of widths),
    one gate for two inputs, else one for each; and `bias` beside each weight.
    Source: Arevalo et al., "Gated multimodal units for information fusion", 2017.
    """

    def __init__(
        self,
        in_features: Sequence[int],
        out_features: int,
        *,
        bias: bool = True,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: Any = {"bias": bias, "backend": backend, "device": device, "dtype": dtype}
        self.in_features = check_widths("in_features", in_features, 2)
        self.out_features = check_count("out_features", out_features)
        self.hidden = nn.ModuleList(
            [ConcatFusion([width], out_features, activation="tanh", **options) for width in self.in_features]
        )
        count = 1 if len(self.in_features) == 2 else len(self.in_features)
        self.gates = nn.ModuleList(
            [ConcatFusion(self.in_features, out_features, activation="sigmoid", **options) for _ in range(count)]
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """inputs: list of (..., in_features[i]); returns (*joint leading shape, out_features)."""
        check_inputs(inputs, self.in_features)
        check_joint(inputs)
        hidden = [features([x]) for features, x in zip(self.hidden, inputs, strict=True)]
        # sigmoid(linear(x)) has every row, so that it is the product and the features, which may be shared by rows,
        # are the factor: the other way round a shared input would be multiplied once for every row.
        if len(hidden) == 2:
            return self.gates[0](inputs, hidden[1], hidden[0] - hidden[1])
        out = None
        for gate, features in zip(self.gates, hidden, strict=True):
            out = gate(inputs, out, features)
        assert out is not None
        return out

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class ParallelFusion(Composite):
    """End of a Transformer block whose attention and MLP stand side by side: one projection of both, gated.

    Equivalent::

        y = proj(torch.cat([attention, activation(mlp)], -1))
        y = residual + gate * y                                    # where given

    The name is that of parallel attention and MLP layers (GPT-J, PaLM, ViT-22B); with a gate and a residual this is how
    FLUX's single-stream blocks end. The concatenation, 5 times as wide as the tokens there, is never built.

    Args:
        attention_features: width of the attention's output, heads side by side, without a projection of its own.
        mlp_features: width of the MLP's hidden layer.
        out_features: width of the output; attention_features where None.
        activation: of the MLP's hidden layer: gelu_tanh (FLUX), gelu, relu, silu, tanh, sigmoid, or None where the
            caller has applied one.
        bias: whether the projection has a bias.
        backend: name of a backend, or None.

    Parameters: `proj.weight` (out_features, attention_features + mlp_features) and `proj.bias`: `proj` loads the
    state_dict of the `nn.Linear` over the concatenation (`linear2` in FLUX, `proj_out` in diffusers).
    Source: Black Forest Labs, "FLUX.1", 2024; Dehghani et al., "Scaling vision transformers to 22 billion parameters",
    2023.
    """

    def __init__(
        self,
        attention_features: int,
        mlp_features: int,
        out_features: int | None = None,
        *,
        activation: str | None = "gelu_tanh",
        bias: bool = True,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.attention_features = check_count("attention_features", attention_features)
        self.mlp_features = check_count("mlp_features", mlp_features)
        self.activation = check_activation(activation)
        self.proj = ConcatFusion(
            [attention_features, mlp_features],
            attention_features if out_features is None else check_count("out_features", out_features),
            bias=bias, backend=backend, device=device, dtype=dtype,
        )  # fmt: skip

    def forward(
        self,
        attention: Tensor,
        mlp: Tensor,
        *,
        gate: Tensor | float | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """The tokens, (*joint leading shape, out_features).

        Args:
            attention: (..., attention_features).
            mlp: (..., mlp_features), before the activation. Leading axes broadcast against attention's.
            gate: number or tensor that broadcasts to the output. A modulation per sample (adaLN) is (B, 1,
                out_features): as everywhere in torch, (B, out_features) would be aligned with the tokens.
            residual: broadcasts to the output.
        """
        check_features("attention", attention, self.attention_features)
        check_features("mlp", mlp, self.mlp_features)
        return self.proj([attention, activate(mlp, self.activation or "none")], residual, gate)

    def extra_repr(self) -> str:
        """The activation, for printing."""
        return f"activation={self.activation}"
