"""The norms that concat_fusion takes, and their lowering to plain tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmkernels.ops.fusion.reference import NORM_LAYER, NORM_NONE, NORM_RMS
from mmkernels.precision import FLOATING, accumulate_dtype


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """LayerNorm over the concatenated features: `(x - mean) / sqrt(var + eps) * weight + bias`.

    Args:
        weight, bias: (sum of the inputs' last dims,), floating; None leaves them out.
        eps: added to the variance.

    Equivalent: `F.layer_norm(x, x.shape[-1:], weight, bias, eps)`.
    Source: Ba et al., "Layer normalization", 2016.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5


@dataclass(frozen=True, eq=False)
class RMSNorm:
    """RMSNorm over the concatenated features: `x / sqrt(mean(x^2) + eps) * weight`.

    Args:
        weight: (sum of the inputs' last dims,), floating; None leaves it out.
        eps: added to the mean square; None is torch's default, the machine epsilon of the accumulation dtype.

    Equivalent: `F.rms_norm(x, x.shape[-1:], weight, eps)`.
    Source: Zhang and Sennrich, "Root mean square layer normalization", 2019.
    """

    weight: Tensor | None = None
    eps: float | None = None


Norm = LayerNorm | RMSNorm | torch.nn.LayerNorm | torch.nn.RMSNorm


def lower_norm(
    norm: Norm | None, width: int, device: torch.device, dtype: torch.dtype
) -> tuple[int, Tensor | None, Tensor | None, float]:
    """(norm_kind, weight, bias, eps) of a norm over `width` features.

    Raises:
        TypeError: not a norm, or a parameter that is not a floating point tensor.
        ValueError: a parameter of another size or on another device, no features at all, a negative eps.
    """
    if norm is None:
        return NORM_NONE, None, None, 0.0
    if isinstance(norm, (torch.nn.LayerNorm, torch.nn.RMSNorm)) and tuple(norm.normalized_shape) != (width,):
        raise ValueError(
            f"norm has normalized_shape {tuple(norm.normalized_shape)}, expected ({width},), the inputs' joint width"
        )
    if isinstance(norm, (LayerNorm, torch.nn.LayerNorm)):
        kind, bias, eps = NORM_LAYER, norm.bias, norm.eps
    elif isinstance(norm, (RMSNorm, torch.nn.RMSNorm)):
        kind, bias = NORM_RMS, None
        eps = torch.finfo(accumulate_dtype(dtype)).eps if norm.eps is None else norm.eps
    else:
        raise TypeError(f"norm must be a LayerNorm or RMSNorm of mmkernels or torch.nn, got {type(norm).__name__}")
    if width == 0:
        raise ValueError("norm needs at least one feature, but every input has a last axis of size 0")
    if not isinstance(eps, (int, float)) or not eps >= 0:
        raise ValueError(f"norm.eps must be a number of at least 0, got {eps!r}")
    for name, parameter in (("norm.weight", norm.weight), ("norm.bias", bias)):
        if parameter is None:
            continue
        if not isinstance(parameter, Tensor) or parameter.dtype not in FLOATING:
            raise TypeError(f"{name} must be a floating point tensor, got {getattr(parameter, 'dtype', parameter)!r}")
        if parameter.shape != (width,):
            raise ValueError(f"{name} has shape {tuple(parameter.shape)}, expected ({width},), the inputs' joint width")
        if parameter.device != device:
            raise ValueError(f"{name} is on {parameter.device}, but inputs[0] is on {device}")
    return kind, norm.weight, bias, float(eps)
