"""Ways through stand-ins and the attention function that no model of the table takes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

import mmkernels as mmk
from mmkernels.integrations.transformers import attention_forward, register
from tests.integrations.rows import randomize


def test_mask2former_over_other_tokens_with_positions_and_a_mask():
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerAttention

    module = randomize(Mask2FormerAttention(32, 4))
    query, positions = torch.randn(5, 2, 32), torch.randn(5, 2, 32)
    context, places = torch.randn(7, 2, 32), torch.randn(7, 2, 32)
    mask = torch.zeros(8, 5, 7).masked_fill(torch.rand(8, 5, 7) < 0.3, -1e4)
    for call in ((query, None, positions), (query, mask, positions, context, places)):
        expected, _ = module(*call)
        report = mmk.patch(module)
        found, weights = module(*call)
        report.revert()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert len(report.replaced) == 1 and weights is None


@pytest.mark.parametrize(
    "name", ["visual_bert.modeling_visual_bert.VisualBertSelfAttention", "vilt.modeling_vilt.ViltSelfAttention"]
)
def test_a_call_that_asks_for_weights_gets_them(name):
    import importlib

    from transformers import VisualBertConfig

    room, _, cls = name.rpartition(".")
    config = VisualBertConfig(hidden_size=32, num_attention_heads=4, qkv_bias=True)
    module = randomize(getattr(importlib.import_module(f"transformers.models.{room}"), cls)(config))
    x = torch.randn(2, 5, 32)
    expected = module(x, output_attentions=True)
    mmk.patch(module)
    found = module(x, output_attentions=True)
    assert len(found) == 2 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(module(x)) == 1


def test_softcap_and_scale():
    q, k, v = (torch.randn(2, 4, 5, 8) for _ in range(3))
    found, _ = attention_forward(torch.nn.Module(), q, k, v, None, scaling=0.7, softcap=1.5)
    weights = (1.5 * torch.tanh(0.7 * q @ k.mT / 1.5)).softmax(-1)
    torch.testing.assert_close(found, (weights @ v).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_a_position_bias_beside_an_additive_mask():
    q, k, v = (torch.randn(2, 4, 5, 8) for _ in range(3))
    mask = torch.randn(2, 1, 5, 5)
    for bias in (
        mmk.RelativeBias(torch.randn(4, 9)),
        mmk.DecomposedBias(torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 1)),
    ):
        dense = bias.to_dense(5, 5) if isinstance(bias, mmk.RelativeBias) else bias.to_dense()
        found, _ = attention_forward(torch.nn.Module(), q, k, v, mask, position_bias=bias)
        weights = (q @ k.mT * 8**-0.5 + dense + mask).softmax(-1)
        torch.testing.assert_close(found, (weights @ v).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_attention_sinks_are_a_further_key_of_value_zero():
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    sinks = torch.randn(4, requires_grad=True)
    found, _ = attention_forward(torch.nn.Module(), q, k, v, None, scaling=0.3, s_aux=sinks)
    logits = torch.einsum("bhqd,bhkd->bhqk", q, k.repeat_interleave(2, 1)) * 0.3
    weights = torch.cat([logits, sinks.view(1, 4, 1, 1).expand(2, 4, 5, 1)], -1).softmax(-1)[..., :-1]
    expected = (weights @ v.repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    cotangent = torch.randn_like(expected)
    a, b = (torch.autograd.grad(out, sinks, cotangent, retain_graph=True)[0] for out in (found, expected))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_refusals():
    q = torch.randn(1, 1, 2, 4)
    with pytest.raises(ValueError, match="no paged cache"):
        attention_forward(torch.nn.Module(), q, q, q, None, cache=object())
    with pytest.warns(UserWarning, match="returns no attention weights"):
        attention_forward(torch.nn.Module(), q, q, q, None, output_attentions=True)
    with pytest.raises(ValueError, match='name must not contain "flash"'):
        register("my_flash")
