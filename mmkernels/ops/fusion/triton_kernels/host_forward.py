"""The launches that make up a forward of concat_fusion, in order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmkernels.ops.fusion.activation import ACTIVATIONS
from mmkernels.ops.fusion.reference import rows_shape
from mmkernels.ops.fusion.triton_kernels.call import Space
from mmkernels.ops.fusion.triton_kernels.forward import fusion_forward
from mmkernels.ops.fusion.triton_kernels.launch import Launcher, features_before, is_shared, tiles
from mmkernels.ops.fusion.triton_kernels.statistics import fusion_statistics
from mmkernels.triton_launch import Device


def forward(
    device: Device,
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    norm_kind: int,
    eps: float,
    activation: int,
    out: Tensor,
    product: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
) -> None:
    """Writes out, and product, mean and rstd where they are there. mean and rstd say which norm it is."""
    rows = rows_shape(inputs)
    if math.prod(rows) == 0:
        return
    launcher = Launcher(device, weight)
    firsts = features_before(inputs)
    # With a norm every row has its own features, and one that adds up no features is still a row.
    whole = [i for i, x in enumerate(inputs) if rstd is not None or (x.shape[-1] and not is_shared(x, rows))]
    sources = [inputs[i] for i in whole]
    if rstd is not None:
        _statistics(launcher, rows, sources, eps, mean, rstd)
    if weight.shape[0] == 0:
        return
    parts = [_multiply_shared(launcher, x, firsts[i]) for i, x in enumerate(inputs) if i not in whole and x.shape[-1]]
    constant, _ = launcher.weight_sums(bias, norm_weight, norm_bias)
    _multiply(
        launcher, rows, sources, [firsts[i] for i in whole], parts, out, product, constant, mean, rstd, norm_weight,
        gate, residual, ACTIVATIONS[activation],
    )  # fmt: skip


def _statistics(
    launcher: Launcher, rows: torch.Size, sources: Sequence[Tensor], eps: float, mean: Tensor | None, rstd: Tensor
) -> None:
    tile = launcher.tile("rows")
    space = Space(rows, sources)
    count = math.prod(rows)
    fusion_statistics[(tiles(count, tile.height),)](
        mean, rstd, space.sources(range(len(sources)), [0] * len(sources)), space.sizes, count,
        float(launcher.weight.shape[1]), eps, HEIGHT=tile.height, DEPTH=tile.depth, **launcher.options(tile),
    )  # fmt: skip


def _multiply_shared(launcher: Launcher, x: Tensor, first: int) -> Tensor:
    """A shared source's product with its part of the weight, of its own rows, in fp32."""
    out = launcher.empty(*x.shape[:-1], launcher.weight.shape[0])
    _multiply(launcher, x.shape[:-1], [x], [first], [], out)
    return out


def _multiply(
    launcher: Launcher,
    rows: torch.Size,
    sources: Sequence[Tensor],
    firsts: Sequence[int],
    parts: Sequence[Tensor],
    out: Tensor,
    product: Tensor | None = None,
    constant: Tensor | None = None,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    norm_weight: Tensor | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
) -> None:
    tile, weight = launcher.tile("forward"), launcher.weight
    space = Space(rows, [*sources, *parts, gate, residual])
    read = space.sources(range(len(sources)), firsts)
    added = space.sources(range(len(sources), len(sources) + len(parts)), [0] * len(parts))
    count, outs = math.prod(rows), weight.shape[0]
    fusion_forward[(tiles(count, tile.height, outs, tile.width),)](
        out, product, read, added, weight, weight.stride(0), constant, mean, rstd, norm_weight, space.rows(-2),
        space.rows(-1), space.sizes, count, outs, tiles(outs, tile.width), ACTIVATION=activation,
        **launcher.constants(tile),
    )  # fmt: skip
