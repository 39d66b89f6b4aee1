"""The activations that concat_fusion takes, by name, with their derivatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid")


def activate(z: Tensor, activation: str) -> Tensor:
    """The activation by name; "none" is the identity."""
    if activation == "none":
        return z
    if activation == "gelu":
        return F.gelu(z)
    if activation == "gelu_tanh":
        return F.gelu(z, approximate="tanh")
    return {"relu": torch.relu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[activation](z)


def activation_backward(grad: Tensor, z: Tensor, activation: str) -> Tensor:
    """grad * act'(z)."""
    if activation == "none":
        return grad
    if activation == "relu":
        return torch.where(z > 0, grad, 0)
    if activation == "tanh":
        return grad * (1 - torch.tanh(z).square())
    if activation == "sigmoid":
        s = torch.sigmoid(z)
        return grad * s * (1 - s)
    if activation == "silu":
        return torch.ops.aten.silu_backward(grad, z)
    return torch.ops.aten.gelu_backward(grad, z, approximate="tanh" if activation == "gelu_tanh" else "none")
