"""Concat-fusion as a model writes it in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.fusion.problems import EPS


def concatenated(inputs: Sequence[Tensor]) -> Tensor:
    """The sources side by side, each expanded to all rows."""
    rows = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    return torch.cat([x.expand(*rows, -1) for x in inputs], -1)


def plain(
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """cat + linear, with layer_norm, gelu, gate and residual where they are given."""
    x = concatenated(inputs)
    if norm_weight is None or gate is None or residual is None:
        return F.linear(x, weight, bias)
    x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, EPS)
    return residual + gate * F.gelu(F.linear(x, weight, bias))
