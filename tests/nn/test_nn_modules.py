"""CrossAttention, SelfAttention, GatedCrossAttention, JointAttention and ConcatFusion against their naive twins."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from mmkernels import nn
from tests.nn import twins
from tests.nn.twins import compare, randomize


def tokens(*shape):
    return torch.randn(*shape, requires_grad=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"kv_heads": 2}, {"head_dim": 6, "qk_norm": True}, {"bias": False, "heads": 1}],
    ids=["plain", "grouped", "qk_norm", "one head"],
)
def test_cross_attention(options):
    module = randomize(nn.CrossAttention(16, 12, **{"heads": 4, **options}))
    x, context = tokens(2, 5, 16), tokens(2, 7, 12)
    compare(module, module(x, context), twins.cross(module, x, [context]), [x, context])


def test_cross_attention_over_segments():
    """Two contexts through one projection, then three of different widths; one is shared by the batch, one is empty."""
    module = randomize(nn.CrossAttention(16, 12, heads=2))
    x, contexts = tokens(2, 5, 16), [tokens(2, 7, 12), tokens(1, 3, 12)]
    compare(module, module(x, contexts), twins.cross(module, x, contexts), [x, *contexts])
    module = randomize(nn.CrossAttention(16, [12, 6, 4], heads=2, qk_norm=True))
    contexts = [tokens(2, 7, 12), tokens(1, 3, 6), tokens(2, 0, 4)]
    assert list(module.state_dict())[2:4] == ["kv.0.weight", "kv.0.bias"]
    compare(module, module(x, contexts), twins.cross(module, x, contexts), [x, *contexts])


def test_cross_attention_masks_and_bias():
    module = randomize(nn.CrossAttention(16, heads=2))
    x, contexts, bias = tokens(2, 5, 16), [tokens(2, 7, 16), tokens(2, 3, 16)], tokens(1, 2, 5, 10)
    lengths = torch.tensor([4, 0])
    mask = mmk.Mask.segments([mmk.Mask.key_lengths(lengths), None])
    visible = torch.arange(10)[None] < torch.tensor([[4], [0]])
    visible = (visible | (torch.arange(10) >= 7))[:, None, None]
    theirs = twins.cross(module, x, contexts, visible=visible, bias=bias)
    compare(module, module(x, contexts, mask=mask, bias=bias), theirs, [x, *contexts, bias])
    dense = module(x, contexts, mask=visible, bias=bias)
    torch.testing.assert_close(dense, theirs, rtol=1e-4, atol=1e-5)
    relative = mmk.RelativeBias(torch.randn(2, 14))
    theirs = twins.cross(module, x, contexts, bias=relative.to_dense(5, 10))
    torch.testing.assert_close(module(x, contexts, bias=relative), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"kv_heads": 1, "qk_norm": True}, {"head_dim": 3, "bias": False}])
def test_self_attention(options):
    module = randomize(nn.SelfAttention(16, 4, **options))
    x = tokens(2, 6, 16)
    compare(module, module(x), twins.self_attention(module, x), [x])
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    theirs = twins.self_attention(module, x, visible=causal)
    compare(module, module(x, mask=mmk.Mask.causal()), theirs, [x])


def test_heads_of_a_fused_projection_are_views(monkeypatch):
    """What reaches the op lies in the projection's own storage, and the merge of heads is no copy either."""
    from mmkernels.nn import cross

    seen = []

    def spy(query, key, value, **options):
        seen.extend(x.untyped_storage().data_ptr() for x in (query, key, value))
        out = mmk.attention(query, key, value, **options)
        merged = cross.merge_heads(out)
        assert merged.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()
        return out

    monkeypatch.setattr(cross, "attention", spy)
    nn.SelfAttention(16, 4)(torch.randn(2, 6, 16))
    assert len(seen) == 3 and len(set(seen)) == 1
    seen.clear()
    nn.CrossAttention(16, heads=4)(torch.randn(2, 6, 16), torch.randn(2, 3, 16))
    assert len(set(seen)) == 2 and seen[1] == seen[2]


def test_gated_cross_attention():
    module = randomize(nn.GatedCrossAttention(16, 12, heads=2))
    x, context = tokens(2, 5, 16), tokens(2, 6, 12)
    compare(module, module(x, context), twins.gated(module, x, [context]), [x, context])
    module = randomize(nn.GatedCrossAttention(16, 12, heads=2, ffn_dim=0))
    assert not any(name.startswith("ffn") for name in module.state_dict())
    compare(module, module(x, context), twins.gated(module, x, [context]), [x, context])


def test_gates_start_closed():
    module, x = nn.GatedCrossAttention(16, heads=2), torch.randn(2, 5, 16)
    assert torch.equal(module(x, torch.randn(2, 3, 16)), x)


def test_tokens_without_media_get_nothing():
    """Flamingo's mask: token i sees the media item that it belongs to; before the first there is none."""
    module = randomize(nn.GatedCrossAttention(16, heads=2, ffn_dim=0))
    x, context = tokens(1, 4, 16), tokens(1, 6, 16)
    media = torch.tensor([[-1, 0, 1, 1]])
    out = module(x, context, mask=mmk.Mask.media(media, 3))
    assert torch.equal(out[:, 0], x[:, 0])
    visible = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]]).bool()
    compare(module, out, twins.gated(module, x, [context], visible=visible), [x, context])


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "head_dim": 6}, {"bias": False}])
def test_joint_attention(options):
    module = randomize(nn.JointAttention([16, 12, 8], 4, **{"head_dim": 4, **options}))
    streams = [tokens(2, 5, 16), tokens(2, 3, 12), tokens(2, 1, 8)]
    compare(module, module(streams), twins.joint(module, streams), streams)
    lengths = torch.tensor([2, 5])
    mask = mmk.Mask.segments([mmk.Mask.key_lengths(lengths), None, None])
    visible = (torch.arange(9)[None] < lengths[:, None]) | (torch.arange(9) >= 5)
    theirs = twins.joint(module, streams, visible=visible[:, None, None])
    compare(module, module(streams, mask=mask), theirs, streams)


def test_joint_attention_rotates_each_stream():
    module = randomize(nn.JointAttention([8, 8], 2))
    streams = [torch.randn(1, 3, 8), torch.randn(1, 2, 8)]
    seen = []

    def rotate(query, key, stream):
        seen.append((stream, query.shape, key.shape))
        return (query, key) if stream else (0 * query, key)

    out = module(streams, rotate=rotate)
    assert seen == [(0, (1, 2, 3, 4), (1, 2, 3, 4)), (1, (1, 2, 2, 4), (1, 2, 2, 4))]
    # a query of zeros attends to all keys alike
    values = torch.cat([qkv(x)[..., 16:] for qkv, x in zip(module.qkv, streams, strict=True)], 1)
    torch.testing.assert_close(out[0], module.out[0](values.mean(1, keepdim=True).expand(-1, 3, -1)))
    torch.testing.assert_close(out[1], module(streams)[1])


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({}, lambda y: y),
        ({"project": 10, "activation": "gelu"}, F.gelu),
        ({"project": [None, 4, 6], "norm": "layer", "activation": "silu", "gate": "vector"}, F.silu),
        ({"norm": "rms", "gate": "scalar", "bias": False, "project": 5}, lambda y: y),
    ],
)
def test_concat_fusion(options, activation):
    module = randomize(nn.ConcatFusion([8, 6, 4], 12, **options))
    inputs, residual = [tokens(2, 5, 8), tokens(2, 1, 6), tokens(4)], tokens(2, 5, 12)
    theirs = twins.fusion(module, inputs, residual, activation)
    compare(module, module(inputs, residual), theirs, [*inputs, residual])
    compare(module, module(inputs), twins.fusion(module, inputs, None, activation), inputs)


def test_concat_fusion_takes_the_place_of_a_linear():
    linear = torch.nn.Linear(14, 12)
    module = nn.ConcatFusion([8, 6], 12)
    module.load_state_dict(linear.state_dict())
    x, y = torch.randn(3, 8), torch.randn(3, 6)
    torch.testing.assert_close(module([x, y]), linear(torch.cat([x, y], -1)))
    torch.manual_seed(5)
    linear = torch.nn.Linear(14, 12)
    torch.manual_seed(5)
    assert torch.equal(nn.ConcatFusion([8, 6], 12).weight, linear.weight)  # and starts where it does


def test_dropout_is_for_training():
    module, x = randomize(nn.SelfAttention(16, 4, dropout=0.5)), torch.randn(2, 6, 16)
    assert not torch.equal(module(x), module(x))
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), first)
    module.eval()
    torch.testing.assert_close(module(x), twins.self_attention(module, x), rtol=1e-4, atol=1e-5)


MODULES = {
    "CrossAttention": (lambda: nn.CrossAttention(8, heads=2), lambda x: (x, x)),
    "SelfAttention": (lambda: nn.SelfAttention(8, 2), lambda x: (x,)),
    "GatedCrossAttention": (lambda: nn.GatedCrossAttention(8, heads=2), lambda x: (x, x)),
    "JointAttention": (lambda: nn.JointAttention([8, 8], 2), lambda x: ([x, x],)),
    "ConcatFusion": (lambda: nn.ConcatFusion([8, 8], 4, norm="layer"), lambda x: ([x, x],)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2), lambda x: (x, x, x)),
}


@pytest.mark.parametrize("name", MODULES)
def test_set_backend(name):
    make, arguments = MODULES[name]
    model = torch.nn.Sequential(make(), torch.nn.Linear(2, 2))
    module, x = model[0], torch.randn(2, 3, 8)
    assert module.backend is None
    assert nn.set_backend(model, "reference") == 1 and module.backend == "reference"
    module(*arguments(x))
    nn.set_backend(model, "cuda")
    with pytest.raises(ValueError, match="backend='cuda' cannot run"):
        module(*arguments(x))
    assert nn.set_backend(model, None) == 1 and module.backend is None
    module(*arguments(x))
    with pytest.raises(ValueError, match="backend must be None or one of"):
        nn.set_backend(model, "gpu")


def test_set_backend_of_some_kinds():
    model = torch.nn.ModuleList([make() for make, _ in MODULES.values()])
    assert nn.set_backend(model, "cpu", (nn.CrossAttention, nn.SelfAttention)) == 3
    assert [m.backend for m in model] == ["cpu", "cpu", "cpu", None, None, None]
    assert nn.set_backend(model, "reference") == 6


@pytest.mark.parametrize("name", MODULES)
def test_compile_fullgraph(name):
    torch._dynamo.reset()
    make, arguments = MODULES[name]
    module, x = randomize(make()), torch.randn(2, 3, 8)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(*arguments(x)), module(*arguments(x))
    for a, b in zip(*(torch.utils._pytree.tree_leaves(y) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


WRONG = {
    "heads": (lambda: nn.CrossAttention(10, heads=4), "dim must be a multiple of heads"),
    "no heads": (lambda: nn.SelfAttention(10, 0), "heads must be at least 1, got 0"),
    "kv_heads": (lambda: nn.SelfAttention(12, 4, kv_heads=3), "heads must be a multiple of kv_heads, got 4 and 3"),
    "dropout": (lambda: nn.CrossAttention(8, dropout=1.5), r"dropout must be in \[0, 1\], got 1.5"),
    "no context": (lambda: nn.CrossAttention(8, []), "context_dim must be an int or at least one"),
    "ffn_dim": (lambda: nn.GatedCrossAttention(8, heads=2, ffn_dim=-1), "ffn_dim must be at least 0, got -1"),
    "no streams": (lambda: nn.JointAttention([]), "dims must hold the width of at least one stream"),
    "no inputs": (lambda: nn.ConcatFusion([], 4), "in_features must hold the width of at least 1 input"),
    "norm": (lambda: nn.ConcatFusion([4], 4, norm="batch"), "norm must be None or one of .*'batch'"),
    "gate": (lambda: nn.ConcatFusion([4], 4, gate="tensor"), "gate must be None or one of .*'tensor'"),
    "activation": (lambda: nn.ConcatFusion([4], 4, activation="swish"), "activation must be None or one of .*'swish'"),
    "project": (lambda: nn.ConcatFusion([4, 4], 4, project=[3]), "project must hold 2 widths, one per input, got 1"),
    "embed_dim": (lambda: nn.MultiheadAttention(10, 4), "embed_dim must be a multiple of num_heads, got 10 and 4"),
    "mha dropout": (lambda: nn.MultiheadAttention(8, 4, dropout=-1), r"dropout must be in \[0, 1\], got -1"),
    "x": (
        lambda: nn.SelfAttention(8, 2)(torch.randn(2, 3, 7)),
        r"x has shape \(2, 3, 7\), expected \(batch, tokens, 8",
    ),
    "x's axes": (lambda: nn.SelfAttention(8, 2)(torch.randn(3, 8)), r"x has shape \(3, 8\)"),
    "context": (
        lambda: nn.CrossAttention(8, 6, heads=2)(torch.randn(2, 3, 8), torch.randn(2, 3, 8)),
        r"context has shape \(2, 3, 8\), expected \(batch, tokens, 6\)",
    ),
    "second context": (
        lambda: nn.CrossAttention(8, [8, 6], heads=2)(torch.randn(2, 3, 8), [torch.randn(2, 3, 8)] * 2),
        r"context\[1\] has shape \(2, 3, 8\), expected \(batch, tokens, 6\)",
    ),
    "contexts": (
        lambda: nn.CrossAttention(8, [8, 6], heads=2)(torch.randn(2, 3, 8), torch.randn(2, 3, 8)),
        r"context must hold 2 tensor\(s\), got 1",
    ),
    "empty context": (lambda: nn.CrossAttention(8, heads=2)(torch.randn(2, 3, 8), []), "context must hold at least 1"),
    "streams": (lambda: nn.JointAttention([8, 8], 2)([torch.randn(1, 2, 8)]), "streams must hold 2 tensors, got 1"),
    "fusion inputs": (lambda: nn.ConcatFusion([8, 8], 2)([torch.randn(1, 8)]), "inputs must hold 2 tensors, got 1"),
    "fusion width": (
        lambda: nn.ConcatFusion([8, 6], 2)([torch.randn(1, 8), torch.randn(1, 8)]),
        r"inputs\[1\] has shape \(1, 8\), expected a tensor \(..., 6\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: nn.CrossAttention(8, heads=2)(torch.randn(1, 2, 8), None), "context must be a list of tensors"),
        (lambda: nn.JointAttention([8, 8], 2)(torch.randn(2, 1, 2, 8)), "streams must be a list of tensors"),
        (lambda: nn.ConcatFusion([8, 8], 2)(torch.randn(2, 1, 8)), "inputs must be a list of tensors, got Tensor"),
        (lambda: nn.MultiheadAttention(8, 4, dropout="0.1"), "dropout must be a number, got str"),
    ],
)
def test_wrong_type(call, message):
    with pytest.raises(TypeError, match=message):
        call()
