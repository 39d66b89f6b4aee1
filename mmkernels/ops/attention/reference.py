"""Attention in plain torch: the definition that every backend is compared with.

    logits = softcap * tanh(scale * q k^T / softcap) + bias, -inf where masked
    lse    = logsumexp(logits)
    out    = dropout(exp(logits - lse)) v

fp64 is computed in fp64, everything else in fp32. The backward is written out; `differentiable_forward` is left to
torch's autograd instead and so serves second derivatives, forward mode and torch.func.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels.layout import dense_strides_like, empty_gradient, empty_like_query
from mmkernels.ops.attention.lowered import Lowered
from mmkernels.ops.attention.pairs import Pairs, all_finite
from mmkernels.precision import autocast_off

INF = float("inf")


def why_not(problem: Any) -> list[str]:
    """Nothing: the reference serves every problem."""
    return []


def forward(call: Lowered, with_lse: bool = True) -> tuple[Tensor, Tensor | None]:
    """The lowered call to (out, lse).

    Returns:
        out like the query, (B, Hq, Lq, Dv) or varlen (T, Hq, Dv), dense in the query's order of axes;
        lse (B, Hq, Lq) or varlen (Hq, T), fp32, fp64 for fp64 inputs; None where it is not wanted.
    """
    with torch.no_grad(), autocast_off(call.query.device.type):
        out, lse = _attend(call, differentiable=False, with_lse=with_lse)
        result = empty_like_query(call.query, out.shape[-1])
        same = result.dtype == out.dtype and result.stride() == out.stride()
        return out if same else result.copy_(out), lse


def differentiable_forward(*lowered: Any, need_lse: bool = True) -> tuple[Tensor, Tensor | None]:
    """`forward` (of the unpacked call) for torch to differentiate: any order, forward mode, torch.func.

    A NaN in an operand stays where `forward` would leave it, in the gradients too. A NaN in the output's gradient is
    not confined to its row here, as it is in `backward`.

    Args:
        need_lse: False leaves lse out (None), and its cost.
    """
    call = Lowered(*lowered)
    with autocast_off(call.query.device.type):
        out, lse = _attend(call, differentiable=True, with_lse=need_lse)
        return _in_order_of(call.query, out.to(call.query.dtype)), lse


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of `forward`, from its results and their gradients.

    Args:
        needs: whether the gradients of [query, keys, values, bias] are wanted.

    Returns:
        (grad_query, grad_keys, grad_values, grad_bias), in their tensors' shapes and dtypes; what is not needed is a
        tensor of shape (0,) or an empty list.
    """
    with torch.no_grad(), autocast_off(call.query.device.type):
        return _gradients(grad_out, grad_lse, call, out, lse, needs)


def isolated_matmul(weights: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    """`weights @ values` in which a non-finite value reaches only the rows that see it.

    Args:
        weights: (..., M, K), 0 where not visible.
        values: (..., K, N).
        visible: bool (..., M, K); None if every pair is visible, then this is a plain product.
    """
    if visible is None or all_finite(values):
        return weights @ values
    classes = torch.cat([values.isnan(), values == INF, values == -INF], dim=-1).to(values.dtype)
    clean = torch.where(values.isfinite(), values, 0.0)
    nan, up, down = (visible.to(values.dtype) @ classes > 0).chunk(3, dim=-1)
    poison = torch.where(nan | (up & down), torch.nan, torch.where(up, INF, torch.where(down, -INF, 0.0)))
    poison = poison.to(values.dtype)
    # As a product with the row's weights, so that the poison is in the derivative as well; but never 0 * inf.
    total = weights.sum(-1, keepdim=True)
    hit = nan | up | down
    row = torch.where(hit, poison * torch.where(total == 0, 1.0, total), 0.0)
    return weights @ clean + row


def _in_order_of(query: Tensor, out: Tensor) -> Tensor:
    """The same values, dense in the query's order of axes, without writing in place."""
    if torch.compiler.is_compiling():
        return out  # a compiler lays out what it fuses, and symbolic strides cannot be sorted
    strides = dense_strides_like(query, out.shape)
    if out.stride() == strides:
        return out
    order = sorted(range(out.dim()), key=lambda axis: -strides[axis])
    back = sorted(range(out.dim()), key=lambda axis: order[axis])
    return out.permute(order).contiguous().permute(back)


def _attend(call: Lowered, differentiable: bool, with_lse: bool) -> tuple[Tensor, Tensor | None]:
    pairs = Pairs(call)
    query = pairs.grouped(pairs.padded(call.query).to(pairs.dtype))
    key, value = pairs.joined(call.keys), pairs.joined(call.values)
    bias = pairs.bias()
    visible = pairs.visible(bias)
    isolating = None if visible is None or all_finite(query, key, value) else _expanded(visible, pairs)
    logits = _raw_logits(query, key, call.scale, isolating if differentiable else None).reshape(pairs.shape)
    if call.softcap != 0.0:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    if bias is not None:
        logits = logits + bias
    lse: Tensor | None
    if pairs.k_len == 0:
        out, lse = pairs.grouped(logits) @ value, logits.sum(-1) - INF
    elif visible is None:
        weights, lse = _softmax(logits, differentiable, with_lse)
    else:
        weights, lse = _masked_softmax(torch.where(visible, logits, -INF))
        if differentiable:
            # A row that is NaN has NaN everywhere: its masked pairs must not pass that on to the values' gradients.
            weights = torch.where(visible, weights, 0.0)
    if pairs.k_len > 0:
        kept = pairs.kept()
        if kept is not None:
            weights = weights * kept
        out = isolated_matmul(pairs.grouped(weights), value, isolating)
    out = out.reshape(*pairs.shape[:3], value.shape[-1])
    if visible is None and lse is not None and pairs.k_len > 0:
        out = torch.where((lse == -INF)[..., None], 0.0, out)
    if lse is not None:
        lse = lse[0] if pairs.varlen else lse
    return pairs.packed(out), lse


def _expanded(visible: Tensor, pairs: Pairs) -> Tensor:
    return pairs.grouped(visible.expand(pairs.shape))


def _raw_logits(query: Tensor, key: Tensor, scale: float, isolating: Tensor | None) -> Tensor:
    """scale * q k^T. With isolation the derivative sees finite operands: a masked pair's 0 times NaN would spread."""
    if isolating is None:
        return (query * scale) @ key.transpose(-2, -1)
    bad = ~query.isfinite().all(-1)[..., None] | ~key.isfinite().all(-1)[..., None, :]
    true = (query.detach() * scale) @ key.detach().transpose(-2, -1)
    query, key = torch.where(query.isfinite(), query, 0.0), torch.where(key.isfinite(), key, 0.0)
    clean = (query * scale) @ key.transpose(-2, -1)
    return clean + torch.where(bad & isolating, true - clean.detach(), 0.0)


def _softmax(logits: Tensor, differentiable: bool, with_lse: bool) -> tuple[Tensor, Tensor | None]:
    weights = torch.softmax(logits, dim=-1)
    if not with_lse:
        return weights, None
    if differentiable:
        return weights, torch.logsumexp(logits, dim=-1)
    # The largest weight is 1 / sum(exp(logits - max)): two reads instead of a second exponential.
    row_max = logits.amax(-1)
    return weights, torch.where(row_max == -INF, -INF, row_max - weights.amax(-1).log())


def _masked_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax and log-sum-exp; a row of nothing but -inf has weights 0, lse -inf and no derivative."""
    row_max = logits.detach().amax(-1, keepdim=True)
    empty = row_max == -INF
    row_max = torch.where(empty, 0.0, row_max)
    weights = torch.exp(logits - row_max)
    row_sum = torch.where(empty, 1.0, weights.sum(-1, keepdim=True))
    lse = torch.where(empty, -INF, row_max + torch.log(row_sum)).squeeze(-1)
    return weights / row_sum, lse


def _gradients(
    grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    pairs = Pairs(call)
    needs_query, needs_keys, needs_values, needs_bias = needs
    query = pairs.grouped(pairs.padded(call.query).to(pairs.dtype))
    key, value = pairs.joined(call.keys), pairs.joined(call.values)
    d_out = pairs.padded(grad_out).to(pairs.dtype)
    lse = (lse[None] if pairs.varlen else lse)[..., None]
    bias = pairs.bias()
    visible = pairs.visible(bias)
    active = None if visible is None else visible & (lse != -INF)
    isolating = None if active is None or all_finite(query, key, d_out) else _expanded(active, pairs)
    grouped_d_out = pairs.grouped(d_out)

    capped = logits = _raw_logits(query, key, call.scale, None).reshape(pairs.shape)
    if call.softcap != 0.0:
        capped = torch.tanh(logits / call.softcap)
        logits = call.softcap * capped
    if bias is not None:
        logits = logits + bias
    weights = _weights_again(logits, lse, active)
    kept = pairs.kept()

    grad_values: list[Tensor] = []
    if needs_values:
        dropped = weights if kept is None else weights * kept
        d_value = _transposed_matmul(pairs.grouped(dropped), grouped_d_out, isolating)
        grad_values = _cut(d_value, call.values, pairs)
    if not (needs_query or needs_keys or needs_bias):
        return call.query.new_empty(0), [], grad_values, []

    d_logits = (grouped_d_out @ value.transpose(-2, -1)).reshape(pairs.shape)
    if kept is not None:
        d_logits = d_logits.mul_(kept)
    row = (d_out * pairs.padded(out).to(pairs.dtype)).sum(-1, keepdim=True)
    if grad_lse is not None:
        row = row - (grad_lse[None] if pairs.varlen else grad_lse)[..., None].to(pairs.dtype)
    d_logits = d_logits.sub_(row).mul_(weights)
    if active is not None:
        d_logits = torch.where(active, d_logits, 0.0)
    grad_bias = pairs.bias_gradients(d_logits) if needs_bias else []
    if call.softcap != 0.0:
        slope = 1.0 - capped * capped
        d_logits = d_logits * (slope if active is None else torch.where(active, slope, 0.0))
    d_logits = pairs.grouped(d_logits)

    grad_query, grad_keys = call.query.new_empty(0), []
    if needs_query:
        d_query = isolated_matmul(d_logits, key, isolating) * call.scale
        grad_query = _shaped(pairs.packed(d_query.reshape(*pairs.shape[:3], query.shape[-1])), call.query)
    if needs_keys:
        d_key = _transposed_matmul(d_logits, query, isolating) * call.scale
        grad_keys = _cut(d_key, call.keys, pairs)
    return grad_query, grad_keys, grad_values, grad_bias


def _weights_again(logits: Tensor, lse: Tensor, active: Tensor | None) -> Tensor:
    """The probabilities once more, not as exp(logits - lse): beside finfo.min, lse cannot hold the log of a sum."""
    if logits.shape[-1] == 0:
        return logits
    if active is None:
        weights = torch.softmax(logits, dim=-1)
        return weights if all_finite(lse) else torch.where(lse == -INF, 0.0, weights)
    weights, _ = _masked_softmax(torch.where(active, logits, -INF))
    # A row that is NaN has NaN everywhere: its masked pairs must not pass that on.
    return torch.where(active, weights, 0.0)


def _transposed_matmul(weights: Tensor, rows: Tensor, isolating: Tensor | None) -> Tensor:
    return isolated_matmul(weights.transpose(-2, -1), rows, None if isolating is None else isolating.transpose(-2, -1))


def _cut(gradient: Tensor, segments: Sequence[Tensor], pairs: Pairs) -> list[Tensor]:
    """The gradient of the joined keys or values as the segments' own, summed over a broadcast batch."""
    if pairs.varlen:
        return [_shaped(pairs.packed(gradient), segments[0])]
    pieces = gradient.split(pairs.k_lens, dim=2)
    return [_shaped(piece.sum_to_size(segment.shape), segment) for piece, segment in zip(pieces, segments, strict=True)]


def _shaped(gradient: Tensor, tensor: Tensor) -> Tensor:
    """The gradient in its tensor's dtype, dense in its order of axes."""
    result = empty_gradient(tensor)
    same = result.dtype == gradient.dtype and result.stride() == gradient.stride()
    return gradient if same else result.copy_(gradient)
