"""mmkernels.nn.MultiheadAttention against torch.nn.MultiheadAttention, state_dict and all."""

from __future__ import annotations

import pytest
import torch

from mmkernels import nn
from tests.nn.twins import randomize

E, H, N, LQ, LK = 12, 3, 2, 5, 7

CONSTRUCTORS = {
    "plain": {},
    "no bias": {"bias": False},
    "batch_first": {"batch_first": True},
    "kdim and vdim": {"kdim": 6, "vdim": 10},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True},
    "everything": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6, "vdim": 10, "batch_first": True},
}


def pair(**options):
    """torch's module with random parameters, and ours with its state_dict."""
    theirs = randomize(torch.nn.MultiheadAttention(E, H, **options))
    ours = nn.MultiheadAttention(E, H, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(options, batched=True, same=None):
    def make(length, width):
        shape = (length, width) if not batched else (N, length, width)
        x = torch.randn(shape)
        x = x if not batched or options.get("batch_first") else x.transpose(0, 1)
        return x.detach().requires_grad_()

    if same == "qkv":
        return (make(LQ, E),) * 3
    query, key = make(LQ, E), make(LK, options.get("kdim", E))
    return query, key, key if same == "kv" else make(LK, options.get("vdim", E))


def agree(ours, theirs, tensors, **call):
    """Outputs, weights, and gradients of every parameter and of every input."""
    results = [module(*tensors, **call) for module in (ours, theirs)]
    (out, weights), (out_, weights_) = results
    assert out.shape == out_.shape and out.is_contiguous()  # torch's is without batch_first
    torch.testing.assert_close(out, out_, rtol=1e-4, atol=1e-5)
    assert (weights is None) == (weights_ is None)
    values = [(out, out_)]
    if weights is not None:
        assert weights.shape == weights_.shape
        torch.testing.assert_close(weights, weights_, rtol=1e-4, atol=1e-5)
        values.append((weights, weights_))
    unique = list({id(t): t for t in tensors}.values())
    cotangents = [torch.randn_like(a) for a, _ in values]
    grads = [
        torch.autograd.grad([v[i] for v in values], [*module.parameters(), *unique], cotangents)
        for i, module in enumerate((ours, theirs))
    ]
    names = [name for name, _ in ours.named_parameters()] + ["query", "key", "value"]
    for name, a, b in zip(names, *grads, strict=False):
        scale = max(float(b.abs().max()), 1.0)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_agrees_with_torch(name, need_weights):
    options = CONSTRUCTORS[name]
    ours, theirs = pair(**options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    agree(ours, theirs, inputs(options), need_weights=need_weights)


@pytest.mark.parametrize("same", ["qkv", "kv"])
def test_one_tensor_as_several_inputs(same):
    for options in ({}, {"bias": False, "batch_first": True}):
        ours, theirs = pair(**options)
        agree(ours, theirs, inputs(options, same=same), need_weights=False)


def masks():
    causal = torch.ones(LQ, LK).tril(2).bool()
    several = torch.rand(N * H, LQ, LK) < 0.3
    several[:, :, 0] = False  # torch answers NaN where nothing is visible
    padding = torch.tensor([[False] * 5 + [True] * 2, [False] * LK])
    return {
        "2-D bool": {"attn_mask": ~causal},
        "3-D bool": {"attn_mask": several},
        "2-D float": {"attn_mask": torch.randn(LQ, LK)},
        "3-D float": {"attn_mask": torch.randn(N * H, LQ, LK)},
        "float with -inf": {"attn_mask": torch.zeros(LQ, LK).masked_fill(~causal, -torch.inf)},
        "padding": {"key_padding_mask": padding},
        "float padding": {"key_padding_mask": torch.zeros(N, LK).masked_fill(padding, -torch.inf)},
        "bool and padding": {"attn_mask": ~causal, "key_padding_mask": padding},
        "float and float padding": {"attn_mask": torch.randn(LQ, LK), "key_padding_mask": torch.randn(N, LK)},
        "3-D float and float padding": {
            "attn_mask": torch.randn(N * H, LQ, LK), "key_padding_mask": torch.randn(N, LK),
        },
    }  # fmt: skip


@pytest.mark.parametrize("options", ["plain", "everything"])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", masks())
def test_masks(name, need_weights, options):
    options = CONSTRUCTORS[options]
    ours, theirs = pair(**options)
    agree(ours, theirs, inputs(options), need_weights=need_weights, **masks()[name])


@pytest.mark.parametrize("need_weights", [True, False])
def test_float_attn_mask_beside_bool_padding(need_weights):
    ours, theirs = pair()
    padding = masks()["padding"]["key_padding_mask"]
    with pytest.warns(UserWarning, match="mismatched"):
        agree(ours, theirs, inputs({}), need_weights=need_weights, attn_mask=torch.randn(LQ, LK),
              key_padding_mask=padding)  # fmt: skip


@pytest.mark.parametrize("need_weights", [True, False])
def test_is_causal(need_weights):
    ours, theirs = pair(batch_first=True)
    x = inputs({"batch_first": True}, same="qkv")
    causal = torch.ones(LQ, LQ).tril().bool()
    agree(ours, theirs, x, need_weights=need_weights, attn_mask=~causal, is_causal=True)
    alone, _ = ours(*x, need_weights=need_weights, is_causal=True)
    torch.testing.assert_close(alone, ours(*x, attn_mask=~causal)[0])


@pytest.mark.parametrize("options", ["plain", "everything"])
@pytest.mark.parametrize("call", [
    {}, {"average_attn_weights": False}, {"need_weights": False},
    {"attn_mask": torch.zeros(LQ, LK).bool()}, {"attn_mask": torch.randn(H, LQ, LK)},
    {"key_padding_mask": torch.tensor([False] * 4 + [True] * 3)},
])  # fmt: skip
def test_unbatched(call, options):
    options = CONSTRUCTORS[options]
    ours, theirs = pair(**options)
    agree(ours, theirs, inputs(options, batched=False), **call)


def test_weights_per_head():
    ours, theirs = pair()
    agree(ours, theirs, inputs({}), average_attn_weights=False)


def test_weights_do_not_change_the_output():
    ours, _ = pair()
    x = inputs({})
    assert torch.equal(ours(*x)[0], ours(*x, need_weights=False)[0])


def test_rows_that_see_nothing():
    """torch answers NaN; here the row is the output bias, its weights and gradients are zero."""
    ours, theirs = pair(batch_first=True)
    x = inputs({"batch_first": True})
    hidden = torch.zeros(LQ, LK).bool()
    hidden[2] = True
    for mask in (hidden, torch.zeros(LQ, LK).masked_fill(hidden, -torch.inf)):
        out, weights = ours(*x, attn_mask=mask)
        torch.testing.assert_close(out[:, 2], ours.out_proj.bias.expand(N, E))
        assert (weights[:, 2] == 0).all() and weights.isfinite().all()
        grads = torch.autograd.grad(out.sum() + weights.square().sum(), x)
        assert all(g.isfinite().all() for g in grads) and (grads[0][:, 2] == 0).all()
        assert theirs(*x, attn_mask=mask)[0][:, 2].isnan().all()


@pytest.mark.parametrize("level", [torch.finfo(torch.float32).min, -3e5])
def test_weights_of_rows_without_a_small_bias(level):
    """Padding written as a large negative number: a row of nothing else is ordinary attention, rounded by the bias."""
    ours, theirs = pair(batch_first=True)
    mask = torch.zeros(LQ, LK)
    mask[1] = level
    agree(ours, theirs, inputs({"batch_first": True}), attn_mask=mask)


@pytest.mark.parametrize("add", [{}, {"add_bias_kv": True, "add_zero_attn": True}])
def test_dropout(add):
    """The weights are those that made the output, dropped and scaled; about the right share is dropped."""
    module = randomize(nn.MultiheadAttention(E, H, dropout=0.4, batch_first=True, **add))
    x = torch.randn(8, 16, E)
    out, weights = module(x, x, x, average_attn_weights=False)
    dropped = (weights == 0).double().mean()
    assert 0.35 < dropped < 0.45
    value = torch.nn.functional.linear(x, module.in_proj_weight[2 * E :], module.in_proj_bias[2 * E :])
    if add:
        value = torch.cat([value, module.bias_v.expand(8, 1, E), torch.zeros(8, 1, E)], 1)
    heads = value.unflatten(-1, (H, -1)).transpose(1, 2)
    expected = module.out_proj((weights @ heads).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    module.eval()
    full = module(x, x, x, average_attn_weights=False)[1]
    kept = weights != 0
    torch.testing.assert_close(weights[kept], full[kept] / 0.6, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(full.sum(-1), torch.ones(8, H, 16))


def test_inside_torchs_transformer_layer():
    """Swapped into nn.TransformerEncoderLayer, with its causal mask and padding."""
    layer = torch.nn.TransformerEncoderLayer(E, H, 24, dropout=0.0, batch_first=True)
    x, padding = torch.randn(N, LQ, E), torch.tensor([[False] * 3 + [True] * 2, [False] * 5])
    causal = torch.nn.Transformer.generate_square_subsequent_mask(LQ)
    float_padding = torch.zeros(N, LQ).masked_fill(padding, -torch.inf)
    expected = layer(x, causal, float_padding), layer(x, causal, is_causal=True)
    swapped = nn.MultiheadAttention(E, H, batch_first=True)
    swapped.load_state_dict(layer.self_attn.state_dict())
    layer.self_attn = swapped
    found = layer(x, causal, float_padding), layer(x, causal, is_causal=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_autocast():
    ours, theirs = pair(add_bias_kv=True)
    x = inputs({})
    with torch.autocast("cpu", torch.bfloat16):
        found, weights = ours(*x)
        expected, _ = theirs(*x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert weights.isfinite().all()


QUERY, KEY = torch.randn(LQ, N, E), torch.randn(LK, N, E)
WRONG = {
    "query is no tensor": ({"query": [1.0]}, TypeError, "query must be a tensor, got list"),
    "query's width": ({"query": torch.randn(LQ, N, 5)}, ValueError, r"query has shape \(5, 2, 5\), expected \(L, N"),
    "query's axes": ({"query": torch.randn(1, LQ, N, E)}, ValueError, "query has shape"),
    "key unbatched": ({"key": torch.randn(LK, E)}, ValueError, r"key has shape \(7, 12\).*as many axes as query"),
    "value's length": ({"value": QUERY}, ValueError, r"value has shape \(5, 2, 12\), which does not match key's"),
    "another batch": (
        {"key": torch.randn(LK, 3, E), "value": torch.randn(LK, 3, E)}, ValueError,
        "key has a batch of 3, but query has 2",
    ),
    "attn_mask's shape": ({"attn_mask": torch.ones(LK, LQ) > 0}, ValueError, r"attn_mask has shape \(7, 5\), expected"),
    "attn_mask's dtype": ({"attn_mask": torch.ones(LQ, LK).long()}, TypeError, "attn_mask must be a bool or floating"),
    "padding's shape": ({"key_padding_mask": torch.ones(LK) > 0}, ValueError, r"key_padding_mask has shape \(7,\)"),
    "padding's dtype": ({"key_padding_mask": torch.ones(N, LK).int()}, TypeError, "key_padding_mask must be a bool"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument(name):
    changes, error, message = WRONG[name]
    module = nn.MultiheadAttention(E, H)
    arguments = {"query": QUERY, "key": KEY, "value": KEY, **changes}
    with pytest.raises(error, match=message):
        module(**arguments)


def test_nested_tensors_are_named():
    nested = torch.nested.nested_tensor([torch.randn(3, E), torch.randn(2, E)])
    with pytest.raises(TypeError, match="query is a nested tensor: pack it for attention_varlen"):
        nn.MultiheadAttention(E, H, batch_first=True)(nested, nested, nested)
