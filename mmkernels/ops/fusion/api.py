"""The public function: argument checks, lowering to plain tensors, choice of route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import backend as dispatcher
from mmkernels import op_rules, routing
from mmkernels.ops.fusion import op, reference
from mmkernels.ops.fusion.activation import ACTIVATIONS
from mmkernels.ops.fusion.norm import Norm, lower_norm
from mmkernels.precision import FLOATING


def concat_fusion(
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: str | None = None,
    gate: Tensor | float | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Linear layer over a concatenation of features that is never built, with norm, activation, gate and residual.

    Equivalent, for inputs first expanded to their joint leading shape::

        x = torch.cat(inputs, -1)
        if norm is not None:
            x = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)      # or F.rms_norm
        y = F.linear(x, weight, bias)
        y = residual + gate * activation(y)

    Args:
        inputs: one tensor per source (..., K_s); the leading axes broadcast against each other, so that one vector per
            image, (B, 1, K_s), beside text tokens, (B, T, K_t), is multiplied once per image. K_s = 0 is legal.
        weight: (out, sum of K_s), as `torch.nn.Linear` over the concatenation has it; the inputs' dtype.
        bias: (out,).
        norm: `LayerNorm` or `RMSNorm` of mmkernels or torch.nn, over all sum(K_s) features.
        activation: gelu, gelu_tanh, relu, silu, tanh, sigmoid, or None.
        gate: number or tensor that broadcasts to the output.
        residual: tensor that broadcasts to the output.
        backend: name of a backend, or None for the first that can.

    Returns:
        (*joint leading shape, out), in the inputs' dtype, or the residual's where that is wider.

    fp32, bf16, fp16 (accumulated in fp32) and fp64; bias, norm, gate and residual may be of another floating dtype, and
    keep it under autocast, which casts inputs and weight. Differentiable in every tensor, to any order.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or names that do not fit.
    """
    inputs = _check_inputs(inputs)
    first = inputs[0]
    _check_tensor("weight", weight, first)
    cast = routing.active_autocast_dtype(first.device.type)
    if cast is not None:
        inputs, weight = [routing.autocast(x, cast) for x in inputs], routing.autocast(weight, cast)
        first = inputs[0]
    rows = _check_product(inputs, weight)
    out_shape = (*rows, weight.shape[0])
    if bias is not None:
        _check_tensor("bias", bias, first)
        if bias.shape != (weight.shape[0],):
            raise ValueError(f"bias has shape {tuple(bias.shape)}, expected ({weight.shape[0]},), weight's rows")
    norm_kind, norm_weight, norm_bias, eps = lower_norm(norm, weight.shape[1], first.device, first.dtype)
    if activation is not None and (activation not in ACTIVATIONS or activation == "none"):
        raise ValueError(f"activation must be None or one of {ACTIVATIONS[1:]}, got {activation!r}")
    if isinstance(gate, (int, float)) and not isinstance(gate, bool):
        gate = torch.full((), float(gate), dtype=torch.float64 if first.dtype == torch.float64 else torch.float32,
                          device=first.device)  # fmt: skip
    for name, tensor in (("gate", gate), ("residual", residual)):
        if tensor is not None:
            _check_tensor(name, tensor, first)
            _check_broadcasts_to(name, tensor, out_shape)
    dispatcher.check_name(backend)

    operands: Any = (weight, bias, norm_weight, norm_bias, gate, residual)
    settings: Any = (norm_kind, eps, activation or "none")
    way = routing.route((*inputs, *operands))
    if way == "differentiable":
        routing.check_reference_only(backend)
        return reference.concat_fusion(inputs, *operands, *settings)
    wants_gradient = op_rules.wants_gradient((*inputs, *operands))
    call = (inputs, *operands, *settings, wants_gradient, backend)
    if way == "op":
        return torch.ops.mmkernels.concat_fusion_forward(*call)[0]
    if not wants_gradient:
        return op.forward(*call)[0]
    derivative = op.Derivative(len(inputs), norm_kind, eps, activation or "none", backend, residual)
    return op_rules.FirstOrder.apply(lambda: op.forward(*call), derivative, *inputs, *operands)[0]


def _check_inputs(inputs: Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(inputs, (list, tuple)):
        raise TypeError(f"inputs must be a list of tensors, got {type(inputs).__name__}")
    if not inputs:
        raise ValueError("inputs must hold at least one tensor, got an empty list")
    for i, x in enumerate(inputs):
        _check_tensor(f"inputs[{i}]", x, inputs[0])
        if x.dim() == 0:
            raise ValueError(f"inputs[{i}] has no axis, expected (..., features)")
    return list(inputs)


def _check_tensor(name: str, tensor: Any, first: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected one of {FLOATING}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}, expected a strided tensor")
    if tensor.device != first.device:
        raise ValueError(f"{name} is on {tensor.device}, but inputs[0] is on {first.device}")


def _check_product(inputs: list[Tensor], weight: Tensor) -> torch.Size:
    """The joint leading shape of the inputs, if they multiply with the weight."""
    dtype = inputs[0].dtype
    for i, x in enumerate(inputs):
        if x.dtype != dtype:
            raise TypeError(f"inputs[{i}] has dtype {x.dtype}, but inputs[0] has {dtype}")
    if weight.dtype != dtype:
        raise TypeError(f"weight has dtype {weight.dtype}, but inputs[0] has {dtype}")
    widths = [x.shape[-1] for x in inputs]
    if weight.dim() != 2 or weight.shape[1] != sum(widths):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected (out, {sum(widths)}): the inputs' last axes are {widths}"
        )
    try:
        return reference.rows_shape(inputs)
    except RuntimeError:
        shapes = [tuple(x.shape) for x in inputs]
        raise ValueError(f"inputs have shapes {shapes}, whose axes but the last do not broadcast") from None


def _check_broadcasts_to(name: str, tensor: Any, shape: tuple[int, ...]) -> None:
    tail = shape[len(shape) - tensor.dim() :] if tensor.dim() <= len(shape) else ()
    if tensor.dim() > len(shape) or any(s != 1 and s != e for s, e in zip(tensor.shape, tail, strict=True)):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, which does not broadcast to the output {shape}")
