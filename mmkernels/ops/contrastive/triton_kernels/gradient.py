"""Gradients of image and text from the slopes of a band: one ordinary product each.

image:  scale * slopes   text      the band's rows, complete after it
text:   scale * slopes^T image     every column, carried in fp32 from band to band
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=("count", "depth", "begins", "ends"))
def contrastive_gradient(
    grad, carry, slopes, step, along, operand, scale, power, count, depth, begins, ends,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of rows and features: `count` rows, each a sum over `depth` rows of the operand.

    step, along: strides of the slopes from one row of the gradient, and of the operand, to the next. What they hold
    beyond `depth` is 0. carry None: one band is all.
    """
    feature_tiles = tl.cdiv(operand.dim, WIDTH)
    row = (tl.program_id(0) // feature_tiles * HEIGHT + tl.arange(0, HEIGHT)).to(tl.int64)[:, None]
    feature = (tl.program_id(0) % feature_tiles * WIDTH + tl.arange(0, WIDTH))[None, :]
    total = tl.zeros((HEIGHT, WIDTH), tl.float32)
    for first in range(0, depth, DEPTH):
        other = (first + tl.arange(0, DEPTH)).to(tl.int64)
        weights = tl.load(slopes + row * step + other[None, :] * along, mask=row < count, other=0.0)
        numbers = tl.load(
            operand.data + other[:, None] * operand.row + feature,
            mask=(other < depth)[:, None] & (feature < operand.dim),
            other=0.0,
        )
        total = tl.dot(weights, numbers, total, input_precision="ieee")
    exists = feature < operand.dim
    at = row * operand.dim + feature
    if carry is not None:
        total += tl.load(carry + at, mask=exists & (row < tl.where(begins == 1, 0, count)), other=0.0)
        tl.store(carry + at, total, mask=exists & (row < tl.where(ends == 1, 0, count)))
    result = total * tl.load(power + 1) * tl.load(scale)
    tl.store(grad + at, result.to(grad.dtype.element_ty), mask=exists & (row < tl.where(ends == 1, count, 0)))
