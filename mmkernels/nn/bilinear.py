"""Bilinear fusion of low rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.nn.common import Composite, check_count, check_inputs, check_joint, check_widths
from mmkernels.nn.fusion import ConcatFusion


class LowRankBilinearFusion(Composite):
    """Products of features across modalities, tensor fusion included, whose outer product is never built.

    Equivalent::

        h = [activation(factor(x)) for factor, x in zip(factors, inputs)]      # (..., rank) each
        y = out(h[0] * h[1] * ...)                                             # elementwise

    Without an activation y is multilinear: with biases, which stand for the constant 1 that tensor fusion appends to
    every input, it is `einsum("oij,...i,...j->...o", W, [x, 1], [y, 1]) + out.bias` for a W of rank `rank`; without,
    bilinear in x and y alone. Low-rank multimodal fusion with r factors is the case rank = r * out_features,
    activation=None, with an `out` that sums the r products of each output.

    Inputs broadcast against each other on every axis but the last; a factor is applied at the shape of its input.

    Args:
        in_features: width of every input, two or more (multilinear where more).
        out_features: width of the output.
        rank: width of the factors.
        activation: of the factors: tanh (Kim et al.), gelu, gelu_tanh, relu, silu, sigmoid, or None.
        bias: whether linear layers have biases.
        backend: name of a backend, or None.

    Parameters: `factors.<i>.weight` (rank, in_features[i]), `out.weight` (out_features, rank), and `bias` beside each.
    Source: Kim et al., "Hadamard product for low-rank bilinear pooling", 2017; Zadeh et al., "Tensor fusion network for
    multimodal sentiment analysis", 2017; Liu et al., "Efficient low-rank multimodal fusion with modality-specific
    factors", 2018.
    """

    def __init__(
        self,
        in_features: Sequence[int],
        out_features: int,
        rank: int,
        *,
        activation: str | None = "tanh",
        bias: bool = True,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: Any = {"device": device, "dtype": dtype}
        self.in_features = check_widths("in_features", in_features, 2)
        self.out_features, self.rank = check_count("out_features", out_features), check_count("rank", rank)
        self.factors = nn.ModuleList(
            [
                ConcatFusion([width], rank, activation=activation, bias=bias, backend=backend, **place)
                for width in self.in_features
            ]
        )
        self.out = nn.Linear(rank, out_features, bias, **place)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """inputs: list of (..., in_features[i]); returns (*joint leading shape, out_features)."""
        check_inputs(inputs, self.in_features)
        check_joint(inputs)
        # From few axes to many, so that what is there broadcasts to what comes and can be its gate. Counted, not
        # multiplied: under torch.compile sizes may be symbols, by which nothing can be sorted.
        order = sorted(range(len(inputs)), key=lambda i: sum(1 for size in inputs[i].shape[:-1] if size != 1))
        product = self.factors[order[0]]([inputs[order[0]]])
        for i in order[1:]:
            rows = inputs[i].shape[:-1]
            if torch.broadcast_shapes(product.shape[:-1], rows) == rows:
                product = self.factors[i]([inputs[i]], gate=product)
            else:  # rows that neither has alone
                product = product * self.factors[i]([inputs[i]])
        return self.out(product)

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
