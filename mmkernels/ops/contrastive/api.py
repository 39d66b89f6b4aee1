"""The public function: argument checks, lowering to plain tensors, choice of route."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkernels import backend as dispatcher
from mmkernels import op_rules, routing
from mmkernels.ops.contrastive import op, reference
from mmkernels.precision import FLOATING, accumulate_dtype


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    *,
    kind: str = "softmax",
    logit_bias: Tensor | float | None = None,
    targets: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Contrastive loss of image and text embeddings whose (N, M) logits are never built, forward or backward.

    Equivalent for kind="softmax" (CLIP), with `targets` as a bool (N, M) matrix t, the identity by default::

        logits = logit_scale * image @ text.T                       # (N, M)
        def direction(x, t):                                        # cross entropy with soft targets
            share = (1 - label_smoothing) * t / t.sum(1, keepdim=True).clamp(min=1) + label_smoothing / x.shape[1]
            return torch.where(t.any(1), -(share * x.log_softmax(1)).sum(1), 0)
        rows, columns = direction(logits, t), direction(logits.T, t.T)
        loss = (rows.mean() + columns.mean()) / 2                   # sum: (rows.sum() + columns.sum()) / 2
                                                                    # none: (rows + columns) / 2, where N == M
    A row (column) without any positive contributes 0 and counts in the mean. For kind="sigmoid" (SigLIP)::

        x = logit_scale * image @ text.T + logit_bias
        y = (1 - label_smoothing) * t + label_smoothing / 2
        rows = F.binary_cross_entropy_with_logits(x, y, reduction="none").sum(1)
        loss = rows.mean()                                          # sum: rows.sum(), none: rows

    where a row without positives is a row of negatives like any other.

    Args:
        image, text: (N, D), (M, D), of one dtype and device. They are used as given: normalise them before.
        logit_scale: number or tensor of one element that multiplies the dot products as given (no exponential).
        kind: "softmax" or "sigmoid".
        logit_bias: number or tensor of one element; the softmax does not depend on it, and its gradient there is 0.
        targets: None (pairs on the diagonal, N == M), bool (N, M), or int64 (N,), the positive column of every row,
            negative for none. An index of M or more raises on the CPU, and is no positive on other devices.
        label_smoothing: in [0, 1].
        reduction: "mean", "sum" or "none".
        backend: name of a backend, or None for the first that can.

    Returns:
        The loss, () or (N,), in fp32 (fp64 for fp64 inputs); 0 for N = 0.

    fp32, bf16, fp16 (accumulated in fp32) and fp64. Memory beside operands and gradients: 64 * M + 4096 * D numbers on
    the cpu backend (and M * D for 16-bit gradients), a few times 256 * M on the reference. A reduced sigmoid loss makes
    its gradients with it, where autograd records it in eager mode, and keeps them in fp32 for the backward.
    Differentiable in image, text, logit_scale and logit_bias; second derivatives, forward mode and torch.func build the
    logits.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices, numbers or names that do not fit.

    Sources: Radford et al., "Learning transferable visual models from natural language supervision", 2021;
    Zhai et al., "Sigmoid loss for language image pre-training", 2023.
    """
    _check_embeddings(image, text)
    if kind not in reference.KINDS:
        raise ValueError(f"kind must be one of {reference.KINDS}, got {kind!r}")
    if reduction not in reference.REDUCTIONS:
        raise ValueError(f"reduction must be one of {reference.REDUCTIONS}, got {reduction!r}")
    if not isinstance(label_smoothing, (int, float)) or isinstance(label_smoothing, bool):
        raise TypeError(f"label_smoothing must be a number, got {type(label_smoothing).__name__}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    scale = _scalar("logit_scale", logit_scale, image)
    bias = None if logit_bias is None else _scalar("logit_bias", logit_bias, image)
    _check_targets(targets, image, text)
    if kind == "softmax" and reduction == "none" and image.shape[0] != text.shape[0]:
        raise ValueError(
            f'reduction="none" pairs row i with column i: image and text need the same length for kind="softmax", got '
            f"{image.shape[0]} and {text.shape[0]}"
        )
    dispatcher.check_name(backend)
    cast = routing.active_autocast_dtype(image.device.type)
    if cast is not None:
        image, text = routing.autocast(image, cast), routing.autocast(text, cast)

    operands = (image, text, scale, bias)
    rest = (targets, kind, float(label_smoothing), reduction)
    way = routing.route((*operands, targets))
    if way == "differentiable":
        routing.check_reference_only(backend)
        return reference.contrastive_loss(*operands, *rest)
    if way == "op":
        return torch.ops.mmkernels.contrastive_loss_forward(*operands, *rest, backend)[0]
    if not op_rules.wants_gradient(operands):
        return op.forward(*operands, *rest, backend)[0]
    return op.recorded(*operands, *rest, backend)


def _check_embeddings(image: Tensor, text: Tensor) -> None:
    for name, tensor in (("image", image), ("text", text)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in FLOATING:
            raise TypeError(f"{name} has dtype {tensor.dtype}, expected one of {FLOATING}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name} has layout {tensor.layout}, expected a strided tensor")
        if tensor.dim() != 2:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected two axes (pairs, features)")
    if text.dtype != image.dtype:
        raise TypeError(f"text has dtype {text.dtype}, but image has {image.dtype}")
    if text.device != image.device:
        raise ValueError(f"text is on {text.device}, but image is on {image.device}")
    if text.shape[1] != image.shape[1]:
        raise ValueError(f"text has shape {tuple(text.shape)}, expected (M, {image.shape[1]}), image's last axis")


def _scalar(name: str, value: Tensor | float, image: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} has dtype {value.dtype}, expected a floating point tensor or a number")
        if value.numel() != 1:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected one element")
        if value.device != image.device:
            raise ValueError(f"{name} is on {value.device}, but image is on {image.device}")
        return value.reshape(())
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number or a tensor of one element, got {type(value).__name__}")
    return torch.full((), float(value), dtype=accumulate_dtype(image.dtype), device=image.device)


def _check_targets(targets: Tensor | None, image: Tensor, text: Tensor) -> None:
    rows, columns = image.shape[0], text.shape[0]
    if targets is None:
        if rows != columns:
            raise ValueError(f"text has {columns} rows and image {rows}: without targets they must be pairs")
        return
    if not isinstance(targets, Tensor) or targets.dtype not in (torch.bool, torch.int64):
        raise TypeError(f"targets must be a bool or int64 tensor, got {getattr(targets, 'dtype', type(targets))}")
    expected = (rows, columns) if targets.dtype == torch.bool else (rows,)
    if tuple(targets.shape) != expected:
        raise ValueError(f"targets has shape {tuple(targets.shape)}, expected {expected} for dtype {targets.dtype}")
    if targets.device != image.device:
        raise ValueError(f"targets is on {targets.device}, but image is on {image.device}")
