"""Attention as loops over rows and keys in Python and numpy, and random calls to feed it.

Shares no code with the package but the container of the call.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch

from mmkernels.ops.attention.lowered import Lowered


def philox_words(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 on Python ints."""
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(right >> 32) ^ c[1] ^ k[0], right & 0xFFFFFFFF, (left >> 32) ^ c[3] ^ k[1], left & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def kept(seed: int, p: float, b: int, h: int, i: int, j: int) -> bool:
    key = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    return philox_words([j // 4, i, h, b], key)[j % 4] >= round(p * 2**32)


def at(tensor: torch.Tensor, *place: int) -> float:
    """An element of a tensor whose axes may be 1."""
    return tensor[tuple(index if size > 1 else 0 for index, size in zip(place, tensor.shape))].item()


def bias_of(call: Lowered, b: int, h: int, i: int, j: int) -> float:
    if call.bias_kind == 0:
        return 0.0
    if call.bias_kind == 1:
        return at(call.bias[0], b, h, i, j)
    if call.bias_kind == 2:
        return at(call.bias[0], h, j - i + call.relative_zero)
    rel_h, rel_w = call.bias
    return at(rel_h, b, h, i, j // rel_w.shape[-1]) + at(rel_w, b, h, i, j % rel_w.shape[-1])


def sees(call: Lowered, b: int, h: int, i: int, segment: int, local: int, j: int) -> bool:
    inside = True
    if call.start is not None:
        inside = at(call.start, segment, b, h, i) <= local < at(call.stop, segment, b, h, i)
    return bool(inside and (call.visible is None or at(call.visible, b, h, i, j)))


def attention(call: Lowered) -> tuple[np.ndarray, np.ndarray]:
    """(out, lse) of a padded call, one row at a time, in Python floats."""
    batch, q_heads, q_len, _ = call.query.shape
    query = call.query.double().detach().numpy()
    places = [(s, n) for s, key in enumerate(call.keys) for n in range(key.shape[2])]
    group = q_heads // call.keys[0].shape[1]
    out = np.zeros((batch, q_heads, q_len, call.values[0].shape[-1]))
    lse = np.full((batch, q_heads, q_len), -np.inf)
    for b, h, i in np.ndindex(batch, q_heads, q_len):
        masked = [not sees(call, b, h, i, s, n, j) for j, (s, n) in enumerate(places)]
        if call.unmask_empty_rows and all(masked):
            masked = [False] * len(places)
        logits = []
        for j, (s, n) in enumerate(places):
            key = call.keys[s].double().detach()
            dot = sum(query[b, h, i, d] * at(key, b, h // group, n, d) for d in range(query.shape[-1]))
            logit = call.scale * dot
            if call.softcap:
                logit = call.softcap * math.tanh(logit / call.softcap)
            logits.append(-math.inf if masked[j] else logit + bias_of(call, b, h, i, j))
        highest = max(logits, default=-math.inf)
        if highest == -math.inf:
            continue
        total = sum(math.exp(logit - highest) for logit in logits)
        lse[b, h, i] = highest + math.log(total)
        for j, (s, n) in enumerate(places):
            weight = math.exp(logits[j] - highest) / total
            if call.dropout_p:
                b0, h0, q0, k0 = call.offsets
                stays = kept(int(call.seed), call.dropout_p, b + b0, h + h0, i + q0, j + k0)
                weight = weight / (1 - call.dropout_p) if stays else 0.0
            if weight:
                value = call.values[s].double().detach()
                out[b, h, i] += [weight * at(value, b, h // group, n, d) for d in range(value.shape[-1])]
    return out, lse


def random_call(seed: int, dtype: torch.dtype = torch.float64, **fixed: object) -> Lowered:
    """A small padded call with any features; `fixed` sets fields, or one of the choices named below."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def choose(name: str, options: list) -> object:
        option = rng.choice(options)
        return fixed.pop(name, option)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def axes(*shape: int) -> list[int]:
        return [n if n == 0 else rng.choice([1, n]) for n in shape]

    batch, k_heads = choose("batch", [1, 2, 3]), choose("k_heads", [1, 2])
    heads = k_heads * choose("group", [1, 2, 3])
    q_len, k_lens = choose("q_len", [1, 2, 5]), choose("k_lens", [[4], [6], [3, 3], [4, 0, 2], [1, 5]])
    dim, value_dim = choose("dim", [1, 3, 8]), choose("value_dim", [1, 4, 8])
    k_len = sum(k_lens)

    def segments(width: int) -> list[torch.Tensor]:
        return [normal(rng.choice([1, batch]), k_heads, n, width) for n in k_lens]

    rows = axes(batch, heads, q_len)
    start = stop = visible = None
    mask = choose("mask", ["none", "intervals", "dense", "both"])
    if mask in ("intervals", "both"):
        ends = [torch.randint(0, n + 1, (2, *rows), generator=generator).sort(0).values for n in k_lens]
        start, stop = torch.stack(ends, dim=1).to(torch.int32)
    if mask in ("dense", "both"):
        visible = torch.rand(*axes(*rows, k_len), generator=generator) > 0.4

    bias_kind = choose("bias_kind", [0, 1, 2, 3])
    bias, zero = [], 0
    if bias_kind == 1:
        bias = [normal(*axes(batch, heads, q_len, k_len))]
        if choose("bias_inf", [False, True]):
            bias[0][torch.rand(bias[0].shape, generator=generator) > 0.7] = -torch.inf
    elif bias_kind == 2:
        bias, zero = [normal(rng.choice([1, heads]), q_len + k_len - 1)], q_len - 1
    elif bias_kind == 3:
        kh = 2 if k_len % 2 == 0 else 1
        bias = [normal(*axes(batch, heads, q_len), kh), normal(*axes(batch, heads, q_len), k_len // kh)]

    dropout_p = choose("dropout_p", [0.0, 0.0, 0.3, 0.7])
    numbers = {
        "scale": dim**-0.5,
        "softcap": rng.choice([0.0, 0.0, 1.5]),
        "dropout_p": dropout_p,
        "seed": torch.randint(-(2**62), 2**62, (), generator=generator) if dropout_p else None,
        "unmask_empty_rows": rng.choice([False, True]),
        "offsets": [rng.choice([0, 3, 2**32 - 16]) for _ in range(4)] if rng.random() < 0.5 else [0, 0, 0, 0],
    }
    call = Lowered(
        query=normal(batch, heads, q_len, dim), keys=segments(dim), values=segments(value_dim),
        start=start, stop=stop, visible=visible, bias=bias, bias_kind=bias_kind, relative_zero=zero, **numbers,
    )  # fmt: skip
    fixed.pop("bias_inf", None)
    return call._replace(**fixed)


def operands(call: Lowered) -> list[torch.Tensor]:
    """What can have a gradient, flat."""
    return [call.query, *call.keys, *call.values, *call.bias]


def with_operands(call: Lowered, tensors: list[torch.Tensor]) -> Lowered:
    """The call with these operands instead, in the order of `operands`."""
    count = len(call.keys)
    query, keys, values, bias = (
        tensors[0],
        tensors[1 : count + 1],
        tensors[count + 1 : 2 * count + 1],
        tensors[2 * count + 1 :],
    )
    return call._replace(query=query, keys=list(keys), values=list(values), bias=list(bias))
