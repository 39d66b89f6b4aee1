"""The two products of concat_fusion's backward, launched once for each source, which write where its gradients lie.

dx_s = rstd (dz W_s) g - slope (x_s - mean) - level
Q_s  = dz^T xhat_s,    dW_s = Q_s g + dbias (outer) norm_bias,    dg_s = sum over outputs of W_s Q_s
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.fusion.triton_kernels.rows import load_statistic, normalised, row_offset

CHAIN = tl.constexpr(1024)
"""Rows whose products are one sum; sums of chains are added in order."""


@triton.jit(do_not_specialize=("sizes", "rows", "column_tiles"))
def fusion_grad_source(
    grad, slopes, x, weight, weight_stride, first, norm_weight, rstd, slope, level, mean,
    sizes, rows, columns, depth, column_tiles,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of a source's gradient; slopes: dz (of a shared source: rstd dz, summed over the rows that share one).

    first: of the source's columns of the weight.
    """
    program = tl.program_id(0)
    row = program // column_tiles * HEIGHT + tl.arange(0, HEIGHT)
    column = program % column_tiles * WIDTH + tl.arange(0, WIDTH)
    exists, wanted = row < rows, column < columns
    mask = exists[:, None] & wanted[None, :]
    total = tl.zeros((HEIGHT, WIDTH), tl.float32)
    left = slopes.data + row_offset(row, sizes, slopes.stride)[:, None]
    weight += first
    for begin in range(0, depth, DEPTH):
        out = begin + tl.arange(0, DEPTH)
        inside = out < depth
        dz = tl.load(left + out[None, :], mask=exists[:, None] & inside[None, :], other=0.0)
        right = weight + out.to(tl.int64)[:, None] * weight_stride + column[None, :]
        w = tl.load(right, mask=inside[:, None] & wanted[None, :], other=0.0)
        total = tl.dot(dz, w, total, input_precision=PRECISION)
    if rstd is not None:
        total = total * load_statistic(rstd, row, exists)[:, None]
    if norm_weight is not None:
        total = total * tl.load(norm_weight + first + column, mask=wanted, other=0.0)[None, :]
    if slope is not None:
        deviation = tl.load(
            x.data + row_offset(row, sizes, x.stride)[:, None] + column[None, :], mask=mask, other=0.0
        ).to(tl.float32)
        if mean is not None:
            deviation = deviation - load_statistic(mean, row, exists)[:, None]
        total = tl.fma(-load_statistic(slope, row, exists)[:, None], deviation, total)
        if level is not None:
            total -= load_statistic(level, row, exists)[:, None]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(grad + at, total.to(grad.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=("sizes", "rows", "outs", "column_tiles"))
def fusion_grad_weight(
    grad, parts, features, slopes, x, weight, weight_stride, first, norm_weight, norm_bias, sums, mean, rstd,
    sizes, rows, outs, columns, column_tiles,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the weight's gradient in a source's columns, and its part of the norm weight's; None: not wanted.

    features: between rows of `grad` and of `parts`; first: of the source's columns there and in the weight.
    """
    program = tl.program_id(0)
    group = program // column_tiles
    out = group * HEIGHT + tl.arange(0, HEIGHT)
    column = program % column_tiles * WIDTH + tl.arange(0, WIDTH)
    exists, wanted = out < outs, column < columns
    mask = exists[:, None] & wanted[None, :]
    total = tl.zeros((HEIGHT, WIDTH), tl.float32)
    for chain in range(0, rows, CHAIN):
        chained = tl.zeros((HEIGHT, WIDTH), tl.float32)
        for begin in range(chain, tl.minimum(chain + CHAIN, rows), DEPTH):
            row = begin + tl.arange(0, DEPTH)
            inside = row < rows
            left = slopes.data + row_offset(row, sizes, slopes.stride)[:, None] + out[None, :]
            dz = tl.load(left, mask=inside[:, None] & exists[None, :], other=0.0)
            right = x.data + row_offset(row, sizes, x.stride)[:, None] + column[None, :]
            operand = tl.load(right, mask=inside[:, None] & wanted[None, :], other=0.0)
            if rstd is not None:
                moved = normalised(operand, load_statistic(mean, row, inside), load_statistic(rstd, row, inside))
                operand = tl.where(wanted[None, :], moved, 0.0).to(operand.dtype)
            chained = tl.dot(tl.trans(dz), operand, chained, input_precision=PRECISION)
        total += chained
    at = out.to(tl.int64)[:, None]
    if parts is not None:
        w = tl.load(weight + first + at * weight_stride + column[None, :], mask=mask, other=0.0).to(tl.float32)
        part = tl.sum(tl.where(mask, w * total, 0.0), 0)
        tl.store(parts + first + group.to(tl.int64) * features + column, part, mask=wanted)
    if grad is not None:
        if norm_weight is not None:
            total = total * tl.load(norm_weight + first + column, mask=wanted, other=0.0)[None, :]
        if norm_bias is not None:
            sum_out = tl.load(sums + out, mask=exists, other=0.0)
            total = tl.fma(
                sum_out[:, None], tl.load(norm_bias + first + column, mask=wanted, other=0.0)[None, :], total
            )
        tl.store(grad + first + at * features + column[None, :], total.to(grad.dtype.element_ty), mask=mask)
