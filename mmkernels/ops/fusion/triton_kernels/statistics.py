"""What concat_fusion sums along rows beside its products: the norm's statistics, and W b and W g of the weight."""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.fusion.triton_kernels.rows import source_offset
from mmkernels.triton_blocks import chosen


@triton.jit
def deviations(
    row, exists, centre, sources, sizes, HEIGHT: tl.constexpr, DEPTH: tl.constexpr, SQUARED: tl.constexpr
):  # fmt: skip
    """Sums over the features of a row of (x - centre), and of its squares where they are SQUARED."""
    total = tl.zeros((HEIGHT, DEPTH), tl.float32)
    squares = tl.zeros((HEIGHT, DEPTH), tl.float32)
    for source in range(len(sources.data)):
        width = chosen(sources.width, source)
        at = chosen(sources.data, source) + source_offset(row, sizes, sources.stride, source)[:, None]
        for begin in range(0, width, DEPTH):
            feature = begin + tl.arange(0, DEPTH)
            inside = exists[:, None] & (feature < width)[None, :]
            x = tl.load(at + feature[None, :], mask=inside, other=0.0).to(tl.float32)
            x = tl.where(inside, x - centre[:, None], 0.0)
            total += x
            if SQUARED:
                squares = tl.fma(x, x, squares)
    return tl.sum(total, 1), tl.sum(squares, 1)


@triton.jit(do_not_specialize=("sizes", "rows", "features", "eps"))
def fusion_statistics(
    mean, rstd, sources, sizes, rows, features, eps, HEIGHT: tl.constexpr, DEPTH: tl.constexpr
):  # fmt: skip
    """mean (None: RMSNorm, which has none) and 1 / std of HEIGHT rows, around a first guess of the mean."""
    row = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)
    exists = row < rows
    centre = tl.zeros((HEIGHT,), tl.float32)
    if mean is not None:
        total, _ = deviations(row, exists, centre, sources, sizes, HEIGHT, DEPTH, False)
        centre = total / features
    total, squares = deviations(row, exists, centre, sources, sizes, HEIGHT, DEPTH, True)
    variance = squares / features
    if mean is not None:
        rest = total / features
        variance = tl.fma(-rest, rest, variance)
        tl.store(mean + row.to(tl.int64), centre + rest, mask=exists)
    tl.store(rstd + row.to(tl.int64), 1.0 / tl.sqrt_rn(variance + eps), mask=exists)


@triton.jit(do_not_specialize=("outs",))
def fusion_weight_sums(
    constant, level, weight, weight_stride, bias, norm_bias, norm_weight, outs, features,
    HEIGHT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """constant = bias + W norm_bias, level = W norm_weight, of HEIGHT outputs; None: not wanted."""
    out = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)
    exists = out < outs
    constants = tl.zeros((HEIGHT, DEPTH), tl.float32)
    levels = tl.zeros((HEIGHT, DEPTH), tl.float32)
    at = weight + out.to(tl.int64)[:, None] * weight_stride
    for begin in range(0, features, DEPTH):
        feature = begin + tl.arange(0, DEPTH)
        inside = feature < features
        w = tl.load(at + feature[None, :], mask=exists[:, None] & inside[None, :], other=0.0).to(tl.float32)
        if constant is not None:
            constants = tl.fma(w, tl.load(norm_bias + feature, mask=inside, other=0.0)[None, :], constants)
        if level is not None:
            if norm_weight is not None:
                levels = tl.fma(w, tl.load(norm_weight + feature, mask=inside, other=0.0)[None, :], levels)
            else:
                levels += w
    if constant is not None:
        total = tl.sum(constants, 1)
        if bias is not None:
            total += tl.load(bias + out, mask=exists, other=0.0)
        tl.store(constant + out, total, mask=exists)
    if level is not None:
        tl.store(level + out, tl.sum(levels, 1), mask=exists)
