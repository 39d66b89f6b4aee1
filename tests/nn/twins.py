"""The modules of mmkernels.nn in plain torch, with the concatenations built: naive twins over their parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomize(module: nn.Module) -> nn.Module:
    """Every parameter random: default initialisation hides errors behind zero gates, zero biases and unit norms."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5)
    return module


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2).contiguous()


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """(B, L, H * D) from (B, H, L, D) operands; grouped heads repeated; rows that see nothing are zero."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1).expand(len(q), -1, -1, -1) for x in (k, v))
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias
    if visible is not None:
        logits = logits.masked_fill(~visible, -torch.inf)
        logits = logits.masked_fill(~visible.any(-1, keepdim=True), 0)
    out = logits.softmax(-1) @ v
    if visible is not None:
        out = out * visible.any(-1, keepdim=True)
    return out.transpose(1, 2).flatten(2)


def cross(module: nn.Module, x: Tensor, contexts: list[Tensor], **mask: Tensor) -> Tensor:
    """CrossAttention over the concatenation of its contexts."""
    projections = list(module.kv) if isinstance(module.kv, nn.ModuleList) else [module.kv] * len(contexts)
    pairs = [p(c).expand(len(x), -1, -1).chunk(2, -1) for p, c in zip(projections, contexts, strict=True)]
    key = module.k_norm(heads(torch.cat([k for k, _ in pairs], 1), module.kv_heads))
    value = heads(torch.cat([v for _, v in pairs], 1), module.kv_heads)
    return module.out(attend(module.q_norm(heads(module.q(x), module.heads)), key, value, **mask))


def self_attention(module: nn.Module, x: Tensor, **mask: Tensor) -> Tensor:
    sizes = [n * module.head_dim for n in (module.heads, module.kv_heads, module.kv_heads)]
    q, k, v = module.qkv(x).split(sizes, -1)
    q, k, v = heads(q, module.heads), heads(k, module.kv_heads), heads(v, module.kv_heads)
    return module.out(attend(module.q_norm(q), module.k_norm(k), v, **mask))


def gated(module: nn.Module, x: Tensor, contexts: list[Tensor], **mask: Tensor) -> Tensor:
    x = x + torch.tanh(module.attention_gate) * cross(module.attention, module.norm(x), contexts, **mask)
    if module.ffn is None:
        return x
    first, _, second = module.ffn
    return x + torch.tanh(module.ffn_gate) * second(F.gelu(first(module.ffn_norm(x))))


def joint(module: nn.Module, streams: list[Tensor], **mask: Tensor) -> list[Tensor]:
    parts = [[heads(y, module.heads) for y in p(x).chunk(3, -1)] for p, x in zip(module.qkv, streams, strict=True)]
    q = torch.cat([norm(part[0]) for norm, part in zip(module.q_norm, parts, strict=True)], 2)
    k = torch.cat([norm(part[1]) for norm, part in zip(module.k_norm, parts, strict=True)], 2)
    v = torch.cat([part[2] for part in parts], 2)
    outs = attend(q, k, v, **mask).split([x.shape[1] for x in streams], 1)
    return [out(x) for out, x in zip(module.out, outs, strict=True)]


def cat(inputs: list[Tensor]) -> Tensor:
    rows = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    return torch.cat([x.expand(*rows, -1) for x in inputs], -1)


def fusion(
    module: nn.Module, inputs: list[Tensor], residual: Tensor | None, activation: object, gate: object = None
) -> Tensor:
    x = cat([p(x) for p, x in zip(module.projections, inputs, strict=True)])
    y = activation(F.linear(x if module.norm is None else module.norm(x), module.weight, module.bias))
    gate = module.gate if gate is None else gate
    y = y if gate is None else gate * y
    return y if residual is None else residual + y


def linear(module: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, module.weight, module.bias)


def gated_unit(module: nn.Module, inputs: list[Tensor]) -> Tensor:
    h = [torch.tanh(linear(hidden, x)) for hidden, x in zip(module.hidden, inputs, strict=True)]
    z = [torch.sigmoid(linear(gate, cat(inputs))) for gate in module.gates]
    if len(h) == 2:
        return z[0] * h[0] + (1 - z[0]) * h[1]
    return sum(gate * features for gate, features in zip(z, h, strict=True))


def parallel(module: nn.Module, attention: Tensor, mlp: Tensor, activation: object, gate: object, residual: object):
    return residual + gate * linear(module.proj, cat([attention, activation(mlp)]))


def low_rank(module: nn.Module, inputs: list[Tensor], activation: object) -> Tensor:
    product = 1
    for factor, x in zip(module.factors, inputs, strict=True):
        product = product * activation(linear(factor, x))
    return module.out(product)


def outer_product(module: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """LowRankBilinearFusion of three without activation as Zadeh et al. compute it: by the tensor of all products."""
    x, y, z = (torch.cat([v, torch.ones(*v.shape[:-1], 1, dtype=v.dtype)], -1) for v in (x, y, z))
    factors = [torch.cat([f.weight, f.bias[:, None]], 1) for f in module.factors]
    weight = torch.einsum("or,ri,rj,rk->oijk", module.out.weight, *factors)
    products = torch.einsum("bi,bj,bk->bijk", x, y, z)
    return products.flatten(1) @ weight.flatten(1).t() + module.out.bias


def bottleneck(module: nn.Module, streams: list[Tensor], lengths: list[Tensor | None]) -> tuple[Tensor, ...]:
    batch = max((len(x) for x in streams), key=lambda size: size != 1)
    streams, shared = [x.expand(batch, -1, -1) for x in streams], module.bottleneck.expand(batch, -1, -1)
    for group in module.layers:
        updated = []
        for i, layer in enumerate(group):
            x = torch.cat([streams[i], shared], 1)
            visible = torch.ones(batch, 1, 1, x.shape[1], dtype=torch.bool)
            if lengths[i] is not None:
                visible[:, 0, 0, : streams[i].shape[1]] = torch.arange(streams[i].shape[1]) < lengths[i][:, None]
            q, k, v = (heads(part, layer.heads) for part in layer.qkv(layer.norm(x)).chunk(3, -1))
            x = x + layer.out(attend(q, k, v, visible))
            first, _, second = layer.ffn
            x = x + second(F.gelu(first(layer.ffn_norm(x))))
            streams[i], own = x.split([streams[i].shape[1], shared.shape[1]], 1)
            updated.append(own)
        shared = torch.stack(updated).mean(0)
    return (*streams, shared)


def compare(module: nn.Module, ours: object, theirs: object, tensors: list[Tensor]) -> None:
    """Outputs, and gradients of every parameter and input, beside an equal amount of rounding in fp32 or fp64."""
    ours, theirs = ([y] if isinstance(y, Tensor) else list(y) for y in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        small = 1e-9 if a.dtype == torch.float64 else 1
        torch.testing.assert_close(a, b, rtol=1e-4 * small, atol=1e-5 * small)
    names = [name for name, _ in module.named_parameters()] + [f"input {i}" for i in range(len(tensors))]
    wanted = [*module.parameters(), *tensors]
    weights = [torch.randn_like(y) for y in ours]
    grads = [
        torch.autograd.grad(
            [y for y in side if y.requires_grad],
            wanted,
            [w for w, y in zip(weights, side, strict=True) if y.requires_grad],
            allow_unused=True,
        )
        for side in (ours, theirs)
    ]
    for name, a, b in zip(names, *grads, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            scale = float(b.abs().max()) if b.numel() else 0.0
            atol = 2e-5 * small * max(scale, 1)
            torch.testing.assert_close(a, b, rtol=1e-3 * small, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
