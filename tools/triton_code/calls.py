"""Calls that launch every kernel with every entry of the tables of tiles, on tensors without memory.

`launches(op, arch, dtype, dim, call)` are those of one call, forward and backward; `CALLS` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels.bias import BIAS_DECOMPOSED, BIAS_DENSE, BIAS_RELATIVE
from mmkernels.ops.attention.lowered import Lowered, empty_lse
from mmkernels.ops.attention.triton_kernels import host as attention
from mmkernels.ops.contrastive.triton_kernels import host as contrastive
from mmkernels.ops.fusion import native_call
from mmkernels.ops.fusion.reference import NORM_LAYER, NORM_NONE
from mmkernels.ops.fusion.triton_kernels import host as fusion
from mmkernels.ops.fusion.triton_kernels import host_backward, host_forward, launch

from .ahead import Launch, recorded

CALLS = {
    "attention": ("plain", "long", "few", "general", "relative", "decomposed"),
    "fusion": ("plain", "normalised"),
    "contrastive": ("softmax", "softmax general", "sigmoid", "sigmoid general"),
}
DIMS = {"attention": (64, 128, 256), "fusion": (0,), "contrastive": (256,)}
"""Head dims, or features of an embedding; a fusion's sources have widths of their own."""


def launches(op: str, arch: str, dtype: torch.dtype, dim: int, call: str) -> list[Launch]:
    """Of a call; kernels that it launches twice in the same form stand there once."""
    found = {"attention": _attention, "fusion": _fusion, "contrastive": _contrastive}[op](arch, dtype, dim, call)
    variants: dict[str, Launch] = {}
    for each in found:
        variants.setdefault(f"{each.name} {each.form()}", each)
    return list(variants.values())


def _empty(dtype: torch.dtype) -> Callable[..., Tensor]:
    return lambda *shape, dtype=dtype: torch.empty(shape, dtype=dtype, device="meta")


def _attention(arch: str, dtype: torch.dtype, dim: int, call: str) -> list[Launch]:
    """plain: causal, one chunk of keys; long: several, of two segments; few: rows that share tiles, split keys."""
    empty = _empty(dtype)
    rows, keys, heads_k = (16, (3000,), 2) if call == "few" else (512, (2000, 77) if call == "long" else (900,), 4)
    query = empty(1, 4, rows, dim)
    segments = [empty(1, heads_k, length, dim) for length in keys]
    ends = empty(len(keys), 1, 1, rows, dtype=torch.int32)
    lowered = Lowered(query, segments, segments, start=ends, stop=ends, scale=0.125)
    if call in ("general", "relative", "decomposed"):
        lowered = lowered._replace(
            softcap=5.0, dropout_p=0.1, seed=empty(dtype=torch.int64), visible=empty(1, 1, rows, 900, dtype=torch.bool)
        )
        lowered = lowered._replace(bias_kind=_BIAS[call][0], bias=[empty(*shape) for shape in _BIAS[call][1]])
    with recorded(attention) as found:
        device = attention.Device(arch, 1000 if call == "few" else 0)
        attention.forward(lowered, True, device)
        if call in ("plain", "general"):
            attention.backward(query, None, lowered, query, empty_lse(query, False), [True] * 4, device)
        elif lowered.bias_kind:  # the passes that own rows and keys read a bias alike, whatever its kind
            backward = attention.Backward(query, None, lowered, query, empty_lse(query, False), device)
            del found[:]
            for part, grad in enumerate(lowered.bias):
                backward.bias(part, grad)
    return found


_BIAS: dict[str, tuple[int, list[tuple[int, ...]]]] = {
    "general": (BIAS_DENSE, [(1, 4, 512, 900)]),
    "relative": (BIAS_RELATIVE, [(4, 1411)]),
    "decomposed": (BIAS_DECOMPOSED, [(1, 4, 512, 30), (1, 4, 512, 30)]),
}


def _fusion(arch: str, dtype: torch.dtype, _: int, call: str) -> list[Launch]:
    return fusion_launches(arch, dtype, call == "normalised")


def fusion_launches(
    arch: str, dtype: torch.dtype, norm: bool, widths: Sequence[int] = (256, 80, 64), outs: int = 320
) -> list[Launch]:
    """Sources, of which the last is shared, with bias and GELU; with a norm also its affine part, gate and residual."""
    empty = _empty(dtype)
    inputs = [empty(8, 100, width) for width in widths[:-1]] + [empty(8, 1, widths[-1])]
    weight = empty(outs, sum(widths))
    bias = empty(outs, dtype=torch.float32)
    of_norm = [empty(sum(widths), dtype=torch.float32) if norm else None for _ in range(2)]
    gate, residual = (empty(outs), empty(8, 100, outs)) if norm else (None, None)
    vectors, settings = (bias, of_norm[0], of_norm[1]), (NORM_LAYER if norm else NORM_NONE, 1e-5, "gelu")
    device = fusion.Device(arch, 0)

    def entry(direction: str) -> Callable[..., Any]:
        return lambda *values: getattr(fusion, direction)(device, *values)

    with recorded(host_forward, host_backward, launch) as found:
        out, product, mean, rstd = native_call.forward(
            entry("forward"), inputs, weight, *vectors, gate, residual, *settings
        )
        needs = [True] * (len(widths) + 5)
        entries = entry("forward"), entry("backward")
        saved = (product, mean, rstd)
        native_call.backward(entries, out, inputs, weight, *vectors, gate, *settings, *saved, needs)
    return found


def _contrastive(arch: str, dtype: torch.dtype, dim: int, call: str) -> list[Launch]:
    """Pairs on the diagonal, or a matrix of targets with label smoothing (and a bias), in two bands."""
    empty = _empty(dtype)
    kind, _, rest = call.partition(" ")
    rows, columns, general = 512, 16384, rest == "general"

    def floats(*shape: int) -> Tensor:
        return empty(*shape, dtype=torch.float32)

    image, text, scale = empty(rows, dim), empty(columns, dim), floats()
    targets = empty(rows, columns, dtype=torch.bool) if general else None
    outputs = empty(rows, dim), empty(columns, dim), empty(2, dtype=torch.float64)
    before, contrastive.BAND_PAIRS = contrastive.BAND_PAIRS, 1 << 22
    try:
        with recorded(contrastive) as found:
            if kind == "softmax":
                stats = floats(2, rows), floats(2, rows), floats(2, columns), floats(2, columns)
                contrastive.statistics(arch, image, text, scale, targets, general, *stats)
                contrastive.gradients(
                    arch, image, text, scale, targets, general, floats(5, rows), floats(5, columns), *outputs
                )
            else:
                bias, smoothing = (scale, 0.1) if general else (None, 0.0)
                numbers = floats(1, rows), floats(1, rows)
                contrastive.sigmoid(arch, image, text, scale, bias, targets, smoothing, *numbers, *outputs)
    finally:
        contrastive.BAND_PAIRS = before
    return found
