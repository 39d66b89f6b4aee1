"""What the Triton kernels of concat_fusion share: where rows stand, normalised features, activations."""

from __future__ import annotations

import triton
import triton.language as tl

from mmkernels.triton_blocks import chosen

SQRT_HALF = tl.constexpr(0.7071067811865476)
SQRT_2_PI = tl.constexpr(0.7978845608028654)
INV_SQRT_2PI = tl.constexpr(0.3989422804014327)
CUBIC = tl.constexpr(0.044715)


# ---- places ----


@triton.jit
def row_offset(row, sizes, strides):
    """Where rows of a space begin in an operand; axes from the innermost on."""
    offset = row.to(tl.int64) * 0
    for axis in tl.static_range(len(sizes)):
        if axis == len(sizes) - 1:
            place = row
        else:
            place = row % sizes[axis]
            row = row // sizes[axis]
        offset += place.to(tl.int64) * strides[axis]
    return offset


@triton.jit
def source_offset(row, sizes, strides, source):
    """The same in a source chosen by its index."""
    offset = row.to(tl.int64) * 0
    for axis in tl.static_range(len(sizes)):
        if axis == len(sizes) - 1:
            place = row
        else:
            place = row % sizes[axis]
            row = row // sizes[axis]
        offset += place.to(tl.int64) * chosen(strides[axis], source)
    return offset


@triton.jit
def load_operand(operand, row, sizes, column, mask):
    """A tile of an operand that may be broadcast, in fp32."""
    at = operand.data + row_offset(row, sizes, operand.stride)[:, None] + (column * operand.column)[None, :]
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


# ---- the norm ----


@triton.jit
def load_statistic(statistic, row, exists):
    """A number of each row; None, which says that there is no such statistic, stays."""
    if statistic is None:
        return None
    else:
        return tl.load(statistic + row.to(tl.int64), mask=exists, other=0.0)


@triton.jit
def normalised(x, mean, rstd):
    """(x - mean) rstd in fp32 of features of rows; mean None: 0."""
    x = x.to(tl.float32)
    if mean is not None:
        x = x - mean[:, None]
    return x * rstd[:, None]


# ---- activations (mmkernels/ops/fusion/activation.py) ----


@triton.jit
def tanh(x):
    """Hyperbolic tangent: around 0 an odd polynomial (minimax, within 2 ulp), for 1 - exp(-2x) cancels there."""
    square = x * x
    series = tl.fma(square, tl.fma(square, tl.fma(square, tl.fma(square, -5.70498872745e-3, 2.06390887954e-2),
                                                  -5.37397155531e-2), 1.33314422036e-1), -3.33332819422e-1)  # fmt: skip
    decay = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - decay) / (1.0 + decay)
    return tl.where(tl.abs(x) < 0.625, tl.fma(x * square, series, x), tl.where(x < 0.0, -far, far))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def gelu_argument(x):
    """What gelu_tanh takes the tangent of."""
    return tl.fma(x * x * CUBIC, x, x) * SQRT_2_PI


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activation by name."""
    if ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * SQRT_HALF))
    elif ACTIVATION == "gelu_tanh":
        x = 0.5 * x * (1.0 + tanh(gelu_argument(x)))
    elif ACTIVATION == "relu":
        x = tl.where(x < 0.0, 0.0, x)  # NaN stays
    elif ACTIVATION == "silu":
        x = x * sigmoid(x)
    elif ACTIVATION == "tanh":
        x = tanh(x)
    elif ACTIVATION == "sigmoid":
        x = sigmoid(x)
    return x


@triton.jit
def activation_backward(grad, x, ACTIVATION: tl.constexpr):
    """grad * act'(x)."""
    if ACTIVATION == "gelu":
        density = tl.exp(-0.5 * x * x) * INV_SQRT_2PI
        grad = grad * tl.fma(x, density, 0.5 * (1.0 + tl.erf(x * SQRT_HALF)))
    elif ACTIVATION == "gelu_tanh":
        bent = tanh(gelu_argument(x))
        slope = tl.fma(x * x, 3.0 * CUBIC, 1.0) * SQRT_2_PI
        grad = grad * 0.5 * tl.fma(x * (1.0 - bent * bent), slope, 1.0 + bent)
    elif ACTIVATION == "relu":
        grad = tl.where(x > 0.0, grad, 0.0)
    elif ACTIVATION == "silu":
        rising = sigmoid(x)
        grad = grad * rising * tl.fma(x, 1.0 - rising, 1.0)
    elif ACTIVATION == "tanh":
        bent = tanh(x)
        grad = grad * (1.0 - bent * bent)
    elif ACTIVATION == "sigmoid":
        rising = sigmoid(x)
        grad = grad * rising * (1.0 - rising)
    return grad
