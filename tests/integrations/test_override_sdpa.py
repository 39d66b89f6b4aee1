"""`mmk.override_sdpa`: every F.scaled_dot_product_attention inside the block, and none outside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import mmkernels as mmk
from tests.integrations.checks import Count


def operands():
    return [torch.randn(2, 4, 7, 8, requires_grad=True) for _ in range(3)]


def test_inside_and_outside():
    q, k, v = operands()
    mask = torch.rand(2, 1, 7, 7) < 0.7
    mask[..., 0] = True
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    outside, inside = Count(), Count()
    with inside.here(), mmk.override_sdpa() as override:
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with outside.here():
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert (inside.calls, outside.calls, override.calls) == (1, 0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    cotangent = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad(found, (q, k, v), cotangent),
        torch.autograd.grad(expected, (q, k, v), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_calls_that_torchs_own_modules_make():
    module, x = nn.MultiheadAttention(16, 4, batch_first=True), torch.randn(2, 5, 16)
    expected = module(x, x, x, need_weights=False)[0]
    count = Count()
    with count.here(), mmk.override_sdpa() as override:
        found = module(x, x, x, need_weights=False)[0]
    assert count.calls == override.calls == 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with mmk.override_sdpa() as override:
        again, weights = module(x, x, x)
    assert override.calls == 0 and weights is not None
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)


def test_torchs_own_modules_under_compile_stay_torchs():
    module, x = nn.MultiheadAttention(16, 4, batch_first=True), torch.randn(2, 5, 16)
    expected = module(x, x, x, need_weights=False)[0]
    compiled = torch.compile(lambda x: module(x, x, x, need_weights=False)[0], fullgraph=True, backend="aot_eager")
    with mmk.override_sdpa():
        found = compiled(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_under_compile():
    q, k, v = (x.detach() for x in operands())
    compiled = torch.compile(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), fullgraph=True, backend="aot_eager"
    )
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with mmk.override_sdpa():
        compiled(q, k, v)
        count = Count()
        with count.here():
            found = compiled(q, k, v)
    assert count.calls == 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    outside = Count()
    with outside.here():
        compiled(q, k, v)
    assert outside.calls == 0
