"""Concat-fusion in plain torch: THE definition, forward and explicit backward.

With x = cat(x_1, ..., x_S) of width K, W = [W_1 | ... | W_S] its column slices and the rows of source s broadcast,

    y = residual + gate * act(z),    z = norm(x) @ W^T + bias.

The concatenation never exists. Each source is multiplied by its own slice at its own shape, so a vector shared by all
tokens of a sample is multiplied once. The norm folds into the sum, for norm(x)_s = (x_s - mean) * rstd * g_s + b_s:

    u = rstd * sum_s [ (x_s - m_s) @ (W_s * g_s)^T + (m_s - mean) * (W_s @ g_s) ],    z = u + (W @ b + bias)

where m_s is `mean` itself for a source that has every row, and the mean of the source's own row for a shared one.
Centering before the product keeps the accuracy of the two-pass norm when |mean| >> std. The variance joins the
sources' own sums of squares (Chan, Golub, LeVeque 1979): var = sum_s [SS_s + K_s (own_mean_s - mean)^2] / K.
RMSNorm is the case mean = m_s = 0.

Backward, with dz = gate * act'(z) * dy and P_s = sum over the rows that share the source of rstd * dz:

    Q_s  = P_s^T @ (x_s - m_s) + [sum over rows of rstd * (m_s - mean) * dz] (outer) 1     (= dz^T @ xhat_s)
    dW_s = Q_s * g_s + dbias (outer) b_s,   dg_s = sum_out W_s * Q_s,   db_s = dbias @ W_s
    dx_s = P_s @ (W_s * g_s) - sum over the sharing rows of rstd * (c1 + c2 * xhat_s)
    c1   = dz . (W @ g) / K,   c2 = dz . u / K

so beside the inputs only u and O(rows) statistics are kept. This text is written without in-place updates in the
forward: autograd and torch.func differentiate it as it stands, to any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmkernels.backend import Problem
from mmkernels.ops.fusion.activation import activate, activation_backward
from mmkernels.precision import accumulate_dtype, matmul, sum_to, without_autocast

NORM_NONE, NORM_LAYER, NORM_RMS = 0, 1, 2


def why_not(problem: Problem) -> list[str]:
    """The reference runs every problem."""
    return []


def rows_shape(inputs: Sequence[Tensor]) -> torch.Size:
    """The joint shape of the sources without their last axis."""
    shapes = [x.shape[:-1] for x in inputs]
    if all(shape == shapes[0] for shape in shapes):  # torch's function takes longer than a small product
        return shapes[0]
    return torch.broadcast_shapes(*shapes)


def saves_product(norm_kind: int, activation: str, has_gate: bool) -> bool:
    """Whether the backward reads u: for act', for the gate's gradient, for the norm's c2."""
    return norm_kind != NORM_NONE or activation != "none" or has_gate


def own_mean(x: Tensor, acc: torch.dtype) -> Tensor:
    """Mean of a source's own rows, (..., 1); 0 for a source of width zero."""
    return x.sum(-1, keepdim=True, dtype=acc) / max(x.shape[-1], 1)


def statistics(inputs: Sequence[Tensor], norm_kind: int, eps: float) -> tuple[Tensor, Tensor]:
    """mean and 1/std of the virtual concatenation's rows, (*rows, 1), two-pass; shape (0,) where there is none."""
    acc = accumulate_dtype(inputs[0].dtype)
    empty = inputs[0].new_empty(0, dtype=acc)
    if norm_kind == NORM_NONE:
        return empty, empty.clone()
    rows = (*rows_shape(inputs), 1)
    width = sum(x.shape[-1] for x in inputs)
    squares = torch.zeros(rows, dtype=acc, device=empty.device)
    if norm_kind == NORM_RMS:
        for x in inputs:
            squares = squares + x.to(acc).square().sum(-1, keepdim=True)
        return empty, (squares / width + eps).rsqrt()
    means = [own_mean(x, acc) for x in inputs]
    mean = torch.zeros_like(squares)
    for x, own in zip(inputs, means):
        mean = mean + own * (x.shape[-1] / width)
    for x, own in zip(inputs, means):
        squares = squares + (x.to(acc) - own).square().sum(-1, keepdim=True) + x.shape[-1] * (own - mean).square()
    return mean, (squares / width + eps).rsqrt()


def slices(inputs: Sequence[Tensor], *parameters: Tensor | None) -> Iterator[tuple]:
    """Every source with its part of each parameter's last axis: (x_s, W_s, g_s, ...); None stays None."""
    column = 0
    for x in inputs:
        yield x, *(None if p is None else p[..., column : column + x.shape[-1]] for p in parameters)
        column += x.shape[-1]


def centre(x: Tensor, norm_kind: int, mean: Tensor, rows: torch.Size) -> tuple[Tensor, Tensor | None]:
    """(x_s - m_s, m_s - mean); the second is None where it is zero by construction."""
    if norm_kind != NORM_LAYER:
        return x, None
    if x.shape[:-1] == rows:
        return x.to(mean.dtype) - mean, None
    own = own_mean(x, mean.dtype)
    return x.to(mean.dtype) - own, own - mean


def matrix(x: Tensor) -> Tensor:
    """All leading axes as one (reshape(-1, n) does not know what to do with n = 0)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def scaled(weight: Tensor, norm_weight: Tensor | None) -> Tensor:
    """W * g in fp32 (fp64), or W as it is without g."""
    return weight if norm_weight is None else weight.to(accumulate_dtype(weight.dtype)) * norm_weight


def constant_row(weight: Tensor, bias: Tensor | None, norm_bias: Tensor | None) -> Tensor | None:
    """W @ b + bias: the part of z that no input enters, (out,) or None."""
    acc = accumulate_dtype(weight.dtype)
    row = None if bias is None else bias.to(acc)
    if norm_bias is not None:
        # Not a matrix-vector product: those add in one chain, which drifts where the terms are equal.
        folded = (weight.to(acc) * norm_bias).sum(1)
        row = folded if row is None else row + folded
    return row


def product(
    inputs: Sequence[Tensor], weight: Tensor, norm_weight: Tensor | None, norm_kind: int, mean: Tensor, rstd: Tensor
) -> Tensor:
    """u: the normalised concatenation times the weight, without the constant row; (*rows, out) in fp32 (fp64)."""
    acc, rows, out = accumulate_dtype(weight.dtype), rows_shape(inputs), weight.shape[0]
    whole: Tensor | None = None  # the sources that have every row, (rows, out), added up by the products themselves
    shared: Tensor | None = None  # the others, smaller, are added to each other before they spread over the rows
    for x, w, g in slices(inputs, weight, norm_weight):
        left, shift = centre(x, norm_kind, mean, rows)
        wg = scaled(w, g)
        if x.shape[:-1] == rows:
            whole = matmul(matrix(left), wg.t(), weight.dtype, whole)
            continue
        part = matmul(matrix(left), wg.t(), weight.dtype).view(*x.shape[:-1], out)
        if shift is not None:
            part = part + shift * wg.sum(1, dtype=acc)
        shared = part if shared is None else shared + part
    u = None if whole is None else whole.view(*rows, out)
    u = u if shared is None else shared if u is None else u + shared
    assert u is not None
    return u.expand(*rows, out) if norm_kind == NORM_NONE else u * rstd


def epilogue(
    u: Tensor,
    constant: Tensor | None,
    activation: str,
    gate: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """residual + gate * act(u + constant), rounded once, to output_dtype."""
    y = activate(u if constant is None else u + constant, activation)
    if gate is not None:
        y = y * gate.to(y.dtype)
    if residual is None:
        return y.to(dtype)
    return (residual + y).to(output_dtype(dtype, residual))


def output_dtype(dtype: torch.dtype, residual: Tensor | None) -> torch.dtype:
    """The inputs' dtype; a wider residual stream is not narrowed."""
    return dtype if residual is None else torch.promote_types(dtype, residual.dtype)


@without_autocast
def concat_fusion(
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    norm_kind: int,
    eps: float,
    activation: str,
) -> Tensor:
    """The result alone, differentiable to any order."""
    mean, rstd = statistics(inputs, norm_kind, eps)
    u = product(inputs, weight, norm_weight, norm_kind, mean, rstd)
    return epilogue(u, constant_row(weight, bias, norm_bias), activation, gate, residual, weight.dtype)


@without_autocast
def forward(
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    norm_kind: int,
    eps: float,
    activation: str,
    save: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, u, mean, rstd); u is rounded to the inputs' dtype, and of shape (0,) if not to be saved or of no use."""
    mean, rstd = statistics(inputs, norm_kind, eps)
    u = product(inputs, weight, norm_weight, norm_kind, mean, rstd)
    out = epilogue(u, constant_row(weight, bias, norm_bias), activation, gate, residual, weight.dtype).contiguous()
    if not (save and saves_product(norm_kind, activation, gate is not None)):
        return out, weight.new_empty(0), mean, rstd
    saved = u.to(weight.dtype).contiguous()
    # The outputs of an op may not share memory, as these do after a norm without activation, gate or bias.
    return out.clone() if out.data_ptr() == saved.data_ptr() else out, saved, mean, rstd


@without_autocast
def backward(
    grad_out: Tensor,
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    gate: Tensor | None,
    norm_kind: int,
    eps: float,
    activation: str,
    u: Tensor,
    mean: Tensor,
    rstd: Tensor,
    needs: Sequence[bool],
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (inputs, weight, bias, norm_weight, norm_bias, gate); needs = [*inputs, then those five].

    A `u` of shape (0,) is computed again. What is not needed comes back with shape (0,). The residual's gradient is
    grad_out itself, summed to its shape.
    """
    acc, rows, out = accumulate_dtype(weight.dtype), rows_shape(inputs), weight.shape[0]
    needs_input, (needs_weight, *needed) = needs[:-5], needs[-5:]
    parameters = (bias, norm_weight, norm_bias, gate)
    needs_bias, needs_g, needs_b, needs_gate = (need and p is not None for need, p in zip(needed, parameters))
    empty = weight.new_empty(0)
    grad_inputs = [empty.clone() for _ in inputs]
    grad_weight, grad_bias, grad_g, grad_b, grad_gate = (empty.clone() for _ in range(5))

    # Through gate and activation
    dz = grad_out.to(acc)
    if saves_product(norm_kind, activation, gate is not None):
        if u.numel() == 0:
            u = product(inputs, weight, norm_weight, norm_kind, mean, rstd)
        u = u.to(acc)
        constant = constant_row(weight, bias, norm_bias)
        z = u if constant is None else u + constant
        if gate is not None:
            if needs_gate:
                grad_gate = sum_to(dz * activate(z, activation), gate.shape).to(gate.dtype)
            dz = dz * gate.to(acc)
        dz = activation_backward(dz, z, activation)

    # The constant row
    row = matrix(dz).sum(0)
    if needs_bias and bias is not None:
        grad_bias = row.to(bias.dtype)
    if needs_b and norm_bias is not None:
        grad_b = (row @ weight.to(acc)).to(norm_bias.dtype)

    # The norm's two means over the features, and what they subtract from every element of a row
    dzr = dz if norm_kind == NORM_NONE else dz * rstd
    if norm_kind != NORM_NONE and any(needs_input):
        slope = (dz * u).sum(-1, keepdim=True) * rstd.square() / weight.shape[1]
        level = (dzr @ scaled(weight, norm_weight).sum(1, dtype=acc)).unsqueeze(-1) / weight.shape[1]

    if needs_weight:
        grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    if needs_g and norm_weight is not None:
        grad_g = torch.empty_like(norm_weight, memory_format=torch.contiguous_format)
    parts = slices(inputs, weight, norm_weight, norm_bias, grad_weight, grad_g)
    for i, (x, w, g, b, grad_w, grad_g_part) in enumerate(parts):
        if not (needs_input[i] or needs_weight or needs_g):
            continue
        p = matrix(sum_to(dzr, (*x.shape[:-1], out)))
        left, shift = centre(x, norm_kind, mean, rows)
        if needs_input[i]:
            dx = matmul(p, scaled(w, g), weight.dtype).view(x.shape)
            if norm_kind != NORM_NONE:
                dx = dx - sum_to(slope, (*x.shape[:-1], 1)) * left
            if norm_kind == NORM_LAYER:
                dx = dx - sum_to(level if shift is None else level + slope * shift, (*x.shape[:-1], 1))
            grad_inputs[i] = dx.to(x.dtype)
        if needs_weight and g is b is shift is None and grad_w.dtype == left.dtype == acc:
            torch.mm(p.t(), matrix(left), out=grad_w)
        elif needs_weight or needs_g:
            q = matmul(p.t(), matrix(left), weight.dtype)
            if shift is not None:
                q = q + matrix(dzr * shift).sum(0).unsqueeze(1)
            if needs_g:
                grad_g_part.copy_((w * q).sum(0))
            if needs_weight:
                if g is not None:
                    q = q * g
                grad_w.copy_(q if b is None else torch.addr(q, row, b.to(acc)))
    return grad_inputs, grad_weight, grad_bias, grad_g, grad_b, grad_gate
