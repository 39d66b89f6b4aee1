"""Forward of concat_fusion in Triton: one product whose depth walks from source to source.

    out = residual + gate act(z),    z = u + constant,    u = sum_s norm(x)_s W_s^T

A program owns HEIGHT rows and WIDTH outputs. A source that every row has its own row of, or that a norm makes differ
from row to row, is read where it lies; `parts` are products of shared sources, multiplied before for their own rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.fusion.triton_kernels.rows import (
    activate,
    load_operand,
    load_statistic,
    normalised,
    source_offset,
)
from mmkernels.triton_blocks import chosen

NOT_SPECIALISED = ("sizes", "rows", "columns", "column_tiles")


@triton.jit
def multiplied(
    total, row, exists, column, wanted, sources, weight, weight_stride, mean, rstd, norm_weight, sizes,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total + sum over sources of norm(x)_s W_s^T."""
    for source in range(len(sources.data)):
        width, first = chosen(sources.width, source), chosen(sources.first, source)
        left = chosen(sources.data, source) + source_offset(row, sizes, sources.stride, source)[:, None]
        right = weight + column.to(tl.int64)[:, None] * weight_stride + first
        for begin in range(0, width, DEPTH):
            feature = begin + tl.arange(0, DEPTH)
            inside = (feature < width)[None, :]
            x = tl.load(left + feature[None, :], mask=exists[:, None] & inside, other=0.0)
            w = tl.load(right + feature[None, :], mask=wanted[:, None] & inside, other=0.0)
            if rstd is not None:
                scaled = normalised(x, mean, rstd)
                if norm_weight is not None:
                    scale = tl.load(norm_weight + first + feature, mask=feature < width, other=0.0)
                    scaled = scaled * scale[None, :]
                x = tl.where(inside, scaled, 0.0).to(x.dtype)
            total = tl.dot(x, tl.trans(w), total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def fusion_forward(
    out, product, sources, parts, weight, weight_stride, constant, mean, rstd, norm_weight, gate, residual,
    sizes, rows, columns, column_tiles,
    ACTIVATION: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the output, and of u where `product` is there."""
    program = tl.program_id(0)
    row = program // column_tiles * HEIGHT + tl.arange(0, HEIGHT)
    column = program % column_tiles * WIDTH + tl.arange(0, WIDTH)
    exists, wanted = row < rows, column < columns
    mask = exists[:, None] & wanted[None, :]
    total = tl.zeros((HEIGHT, WIDTH), tl.float32)
    if sources is not None:
        total = multiplied(
            total, row, exists, column, wanted, sources, weight, weight_stride, load_statistic(mean, row, exists),
            load_statistic(rstd, row, exists), norm_weight, sizes, DEPTH, PRECISION,
        )  # fmt: skip
    if parts is not None:
        for part in range(len(parts.data)):
            at = chosen(parts.data, part) + source_offset(row, sizes, parts.stride, part)[:, None]
            total += tl.load(at + column[None, :], mask=mask, other=0.0)

    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    if product is not None:
        tl.store(product + at, total.to(product.dtype.element_ty), mask=mask)
    if constant is not None:
        total += tl.load(constant + column, mask=wanted, other=0.0)[None, :]
    total = activate(total, ACTIVATION)
    if gate is not None:
        total = total * load_operand(gate, row, sizes, column, mask)
    if residual is not None:
        total = load_operand(residual, row, sizes, column, mask) + total
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)
