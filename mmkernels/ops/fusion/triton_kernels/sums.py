"""concat_fusion's backward beside its products: dz of every row, and sums over the rows that share an operand's row.

Sums over rows are chains over CHUNK rows, which `fusion_join` adds in order: no order depends on the grid.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.ops.fusion.triton_kernels.rows import activate, activation_backward, load_operand, row_offset


@triton.jit
def load_pre_activation(product, constant, at, column, mask, wanted):
    """u and z of a tile."""
    u = tl.load(product + at, mask=mask, other=0.0).to(tl.float32)
    z = u
    if constant is not None:
        z = u + tl.load(constant + column, mask=wanted, other=0.0)[None, :]
    return u, z


@triton.jit(do_not_specialize=("sizes", "rows", "columns", "features"))
def fusion_slopes(
    dz, gate_sums, slope, level, grad_out, gate, product, constant, level_weights, rstd,
    sizes, rows, columns, features, ACTIVATION: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dz = gate act'(z) dy of HEIGHT rows, and what a norm's backward subtracts; None: not wanted.

        dx = rstd (dz W) g - slope (x - mean) - level,    slope = rstd^2 (dz . u) / K,    level = rstd (dz . W g) / K

    gate_sums: of dy act(z) along a row, for the gradient of a gate without columns.
    """
    row = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)
    exists = row < rows
    along_u = tl.zeros((HEIGHT, WIDTH), tl.float32)
    along_weight = tl.zeros((HEIGHT, WIDTH), tl.float32)
    along_gate = tl.zeros((HEIGHT, WIDTH), tl.float32)
    for begin in range(0, columns, WIDTH):
        column = begin + tl.arange(0, WIDTH)
        wanted = column < columns
        mask = exists[:, None] & wanted[None, :]
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        grad = load_operand(grad_out, row, sizes, column, mask)
        if product is not None:
            u, z = load_pre_activation(product, constant, at, column, mask, wanted)
        if gate_sums is not None:
            along_gate = tl.fma(grad, tl.where(mask, activate(z, ACTIVATION), 0.0), along_gate)
        if gate is not None:
            grad = grad * load_operand(gate, row, sizes, column, mask)
        if ACTIVATION != "none":
            grad = tl.where(mask, activation_backward(grad, z, ACTIVATION), 0.0)
        if dz is not None:
            tl.store(dz + at, grad.to(dz.dtype.element_ty), mask=mask)
        if slope is not None:
            along_u = tl.fma(grad, u, along_u)
        if level is not None:
            along_weight = tl.fma(grad, tl.load(level_weights + column, mask=wanted, other=0.0)[None, :], along_weight)
    at = row.to(tl.int64)
    if gate_sums is not None:
        tl.store(gate_sums + at, tl.sum(along_gate, 1), mask=exists)
    if slope is not None:
        scale = tl.load(rstd + at, mask=exists, other=0.0)
        tl.store(slope + at, tl.sum(along_u, 1) * (scale * scale) / features, mask=exists)
        if level is not None:
            tl.store(level + at, tl.sum(along_weight, 1) * scale / features, mask=exists)


@triton.jit
def shared_offset(own, place, own_sizes, sizes, operand):
    """Where the rows in `place` of those that share own row `own` begin."""
    return row_offset(own, own_sizes, operand.own) + row_offset(place, sizes, operand.stride)


@triton.jit(do_not_specialize=("own_sizes", "sizes", "sharing", "chunks", "columns", "column_tiles"))
def fusion_sums(
    parts, summed, factor, product, constant, own_sizes, sizes, sharing, chunks, columns, column_tiles,
    ACTIVATION: tl.constexpr, CHUNK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """parts[own row][chunk][column]: the chunk's rows of `summed`, times a factor of the row, or times act(z)."""
    program = tl.program_id(0)
    part = program // column_tiles
    own, chunk = part // chunks, part % chunks
    column = program % column_tiles * WIDTH + tl.arange(0, WIDTH)
    wanted = column < columns
    total = tl.zeros((HEIGHT, WIDTH), tl.float32)
    for begin in range(0, tl.minimum(CHUNK, sharing - chunk * CHUNK), HEIGHT):
        place = chunk * CHUNK + begin + tl.arange(0, HEIGHT)
        exists = place < sharing
        mask = exists[:, None] & wanted[None, :]
        at = shared_offset(own, place, own_sizes, sizes, summed)[:, None] + column[None, :]
        x = tl.load(summed.data + at, mask=mask, other=0.0).to(tl.float32)
        if product is not None:
            at = shared_offset(own, place, own_sizes, sizes, product)[:, None] + column[None, :]
            _, z = load_pre_activation(product.data, constant, at, column, mask, wanted)
            x = x * tl.where(mask, activate(z, ACTIVATION), 0.0)
        if factor is not None:
            at = shared_offset(own, place, own_sizes, sizes, factor)
            x = x * tl.load(factor.data + at, mask=exists, other=0.0)[:, None]
        total += x
    at = part.to(tl.int64) * columns + column
    tl.store(parts + at, tl.sum(total, 0).to(parts.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=("count", "chunks", "columns"))
def fusion_join(to, parts, count, chunks, columns, BLOCK: tl.constexpr):
    """to[own row][column]: its chunks in order."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    at = parts + i // columns * chunks * columns + i % columns
    total = tl.zeros((BLOCK,), tl.float32)
    for chunk in range(chunks):
        total += tl.load(at + tl.cast(chunk, tl.int64) * columns, mask=inside, other=0.0)
    tl.store(to + i, total.to(to.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=("own_sizes", "sizes", "sharing"))
def fusion_shared_slopes(
    own_slope, own_level, own_mean, slope, level, mean, own_sizes, sizes, sharing, BLOCK: tl.constexpr
):  # fmt: skip
    """What a norm's backward subtracts from an own row of a shared source, summed over the rows that share it:
    slope (x - own_mean) + level for any own_mean near those of the rows: that of the first. mean None: RMSNorm.
    """
    own = tl.program_id(0)
    slopes = tl.zeros((BLOCK,), tl.float32)
    levels = tl.zeros((BLOCK,), tl.float32)
    if mean is not None:
        centre = tl.load(mean + row_offset(own, own_sizes, slope.own))
    for begin in range(0, sharing, BLOCK):
        place = begin + tl.arange(0, BLOCK)
        exists = place < sharing
        at = shared_offset(own, place, own_sizes, sizes, slope)
        one = tl.load(slope.data + at, mask=exists, other=0.0)
        slopes += one
        if mean is not None:
            distance = centre - tl.load(mean + at, mask=exists, other=0.0)
            levels += tl.fma(one, distance, tl.load(level + at, mask=exists, other=0.0))
    at = own.to(tl.int64)
    tl.store(own_slope + at, tl.sum(slopes, 0))
    if mean is not None:
        tl.store(own_level + at, tl.sum(levels, 0))
        tl.store(own_mean + at, centre)
