"""GatedMultimodalUnit, ParallelFusion, LowRankBilinearFusion and BottleneckFusion against their naive twins."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from mmkernels import _native, nn
from tests.nn import twins
from tests.nn.twins import compare, randomize

F64 = torch.float64


def tokens(*shape, dtype=F64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


ROWS = {
    "equal": ((2, 5), (2, 5), (2, 5)),
    "first shared": ((2, 1), (2, 5), (5,)),
    "second shared": ((2, 5), (1, 1), (2, 1)),
    "rows that none has alone": ((5, 1), (1, 3), (2, 1, 1)),
    "vectors": ((), (), ()),
    "empty batch": ((0, 5), (0, 1), (1, 5)),
}


def inputs_of(rows, count):
    return [tokens(*shape, width) for shape, width in zip(ROWS[rows][:count], (8, 6, 4))]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_gated_multimodal_unit(rows, count, bias):
    module = randomize(nn.GatedMultimodalUnit([8, 6, 4][:count], 7, bias=bias, dtype=F64))
    inputs = inputs_of(rows, count)
    compare(module, module(inputs), twins.gated_unit(module, inputs), inputs)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("activation, function", [("tanh", torch.tanh), (None, lambda y: y), ("silu", F.silu)])
def test_low_rank_bilinear_fusion(rows, count, activation, function):
    module = randomize(nn.LowRankBilinearFusion([8, 6, 4][:count], 7, 10, activation=activation, dtype=F64))
    inputs = inputs_of(rows, count)
    compare(module, module(inputs), twins.low_rank(module, inputs, function), inputs)


def test_low_rank_bilinear_fusion_is_tensor_fusion():
    module = randomize(nn.LowRankBilinearFusion([8, 6, 4], 3, 5, activation=None, dtype=F64))
    inputs = [tokens(9, width) for width in (8, 6, 4)]
    compare(module, module(inputs), twins.outer_product(module, *inputs), inputs)
    module = randomize(nn.LowRankBilinearFusion([8, 6], 3, 5, activation=None, bias=False, dtype=F64))
    torch.testing.assert_close(module([2 * inputs[0], -inputs[1]]), -2 * module(inputs[:2]))


@pytest.mark.parametrize("rows", ["equal", "second shared", "empty batch", "vectors"])
@pytest.mark.parametrize(
    "options, function",
    [
        ({}, lambda y: F.gelu(y, approximate="tanh")),
        ({"activation": "gelu", "out_features": 8}, F.gelu),
        ({"activation": None, "bias": False}, lambda y: y),
    ],
)
def test_parallel_fusion(rows, options, function):
    module = randomize(nn.ParallelFusion(8, 6, dtype=F64, **options))
    attention, mlp = inputs_of(rows, 2)
    shape = torch.broadcast_shapes(attention.shape[:-1], mlp.shape[:-1])
    residual, modulation, vector = tokens(*shape, 8), tokens(*(*shape[:1], 1, 8)[-len(shape) - 1 :]), tokens(8)
    for gate in (modulation, vector):
        ours = module(attention, mlp, gate=gate, residual=residual)
        theirs = twins.parallel(module, attention, mlp, function, gate, residual)
        compare(module, ours, theirs, [attention, mlp, gate, residual])
    theirs = twins.parallel(module, attention, mlp, function, 0.5, 0)
    compare(module, module(attention, mlp, gate=0.5), theirs, [attention, mlp])


def test_parallel_fusion_takes_the_place_of_a_projection():
    linear, module = torch.nn.Linear(32, 8), nn.ParallelFusion(8, 24)
    module.proj.load_state_dict(linear.state_dict())
    attention, mlp = torch.randn(2, 3, 8), torch.randn(2, 3, 24)
    expected = linear(torch.cat([attention, F.gelu(mlp, approximate="tanh")], -1))
    torch.testing.assert_close(module(attention, mlp), expected)


def test_gate_of_a_call():
    module = randomize(nn.ConcatFusion([8, 6], 12, activation="silu", dtype=F64))
    inputs, residual, gate = [tokens(2, 5, 8), tokens(2, 1, 6)], tokens(2, 5, 12), tokens(2, 1, 12)
    theirs = twins.fusion(module, inputs, residual, F.silu, gate)
    compare(module, module(inputs, residual, gate), theirs, [*inputs, residual, gate])
    with pytest.raises(ValueError, match="gate must be None in a call of a module that"):
        nn.ConcatFusion([8, 6], 12, gate="vector", dtype=F64)(inputs, gate=gate)


STREAMS = {
    "two": ((2, 5), (2, 3)),
    "three": ((2, 5), (2, 1), (2, 3)),
    "one for the whole batch": ((2, 5), (1, 3)),
    "no tokens": ((2, 5), (2, 0)),
    "empty batch": ((0, 5), (1, 3)),
}


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("options", [{}, {"layers": 3, "tokens": 1, "heads": 1, "ffn_dim": 5, "bias": False}])
def test_bottleneck_fusion(streams, options, dtype):
    shapes = STREAMS[streams]
    module = randomize(nn.BottleneckFusion(8, len(shapes), **{"heads": 2, **options}, dtype=dtype))
    inputs = [tokens(*shape, 8, dtype=dtype) for shape in shapes]
    outs, shared = module(inputs)
    compare(module, [*outs, shared], twins.bottleneck(module, inputs, [None] * len(shapes)), inputs)
    lengths = [torch.tensor([4, 0])[: len(inputs[0])], *[None] * (len(shapes) - 1)]
    outs, shared = module(inputs, lengths=lengths)
    compare(module, [*outs, shared], twins.bottleneck(module, inputs, lengths), inputs)


def test_modalities_meet_in_the_bottleneck_only():
    """What a modality knows reaches the other after two layers; what is padding reaches nobody."""
    x, y, lengths = torch.randn(2, 5, 8), torch.randn(2, 3, 8), [None, torch.tensor([2, 2])]
    for layers in (1, 2):
        module = randomize(nn.BottleneckFusion(8, tokens=2, layers=layers, heads=2))
        (first, _), shared = module([x, y], lengths=lengths)
        (other, _), moved = module([x, y + 1], lengths=lengths)
        assert torch.equal(first, other) == (layers == 1)
        assert not torch.equal(shared, moved)
        padded = y.clone()
        padded[:, 2] = torch.nan
        (other, _), same = module([x, padded], lengths=lengths)
        assert torch.equal(first, other) and torch.equal(shared, same)


def test_dropout_of_the_bottleneck_is_for_training():
    module, streams = randomize(nn.BottleneckFusion(8, heads=2, dropout=0.5)), [torch.randn(2, 5, 8)] * 2
    assert not torch.equal(module(streams)[1], module(streams)[1])
    module.eval()
    torch.testing.assert_close(module(streams)[1], twins.bottleneck(module, streams, [None] * 2)[-1])


X, Y, Z = torch.randn(3, 2, 5, 8).unbind()
MODULES = {
    "GatedMultimodalUnit": (lambda: nn.GatedMultimodalUnit([8, 8], 4), ([X, Y[:, :1]],), 3),
    "GatedMultimodalUnit of three": (lambda: nn.GatedMultimodalUnit([8, 8, 8], 4), ([X, Y, Z],), 6),
    "LowRankBilinearFusion": (lambda: nn.LowRankBilinearFusion([8, 8], 4, 6), ([X, Y[:, :1]],), 2),
    "ParallelFusion": (lambda: nn.ParallelFusion(8, 8), (X, Y), 1),
    "BottleneckFusion": (lambda: nn.BottleneckFusion(8, layers=2, heads=2), ([X, Y[:, :3]],), 4),
}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_concatenated(name, monkeypatch):
    """Nor is a shared input multiplied at the rows that share it: see the shapes."""
    from mmkernels.nn import fusion

    if name == "BottleneckFusion" and not _native.loaded:
        pytest.skip("the attention of the reference backend joins segments")
    make, arguments, _ = MODULES[name]
    module, shapes = make(), []

    def spy(inputs, *args, **options):
        shapes.extend(tuple(x.shape) for x in inputs)
        return mmk.concat_fusion(inputs, *args, **options)

    def refuse(*args, **options):
        raise AssertionError("a concatenation")

    monkeypatch.setattr(fusion, "concat_fusion", spy)
    for function in ("cat", "concat", "stack", "hstack"):
        monkeypatch.setattr(torch, function, refuse)
    module(*arguments)
    if len(arguments) == 1 and name != "BottleneckFusion":
        assert set(shapes) == {tuple(x.shape) for x in arguments[0]}


def test_product_so_far_is_the_gate_of_the_wider_input(monkeypatch):
    """In whatever order the inputs come, nothing but the projection is left to multiply."""
    from mmkernels.nn import fusion

    gates = []

    def spy(inputs, *args, gate, **options):
        gates.append(None if gate is None else tuple(gate.shape))
        return mmk.concat_fusion(inputs, *args, gate=gate, **options)

    monkeypatch.setattr(fusion, "concat_fusion", spy)
    module = nn.LowRankBilinearFusion([8, 8, 8], 4, 6)
    module([X, Y[:, :1], Z[:1, :1]])
    assert gates == [None, (1, 1, 6), (2, 1, 6)]


@pytest.mark.parametrize("name", MODULES)
def test_set_backend(name):
    make, arguments, count = MODULES[name]
    model = torch.nn.Sequential(make(), torch.nn.Linear(2, 2))
    module = model[0]
    assert module.backend is None
    assert nn.set_backend(model, "reference") == count and module.backend == "reference"
    module(*arguments)
    assert nn.set_backend(model, "cuda", type(module)) == count and module.backend == "cuda"
    assert nn.set_backend(model, None, nn.CrossAttention) == 0 and module.backend == "cuda"
    with pytest.raises(ValueError, match="backend='cuda' cannot run"):
        module(*arguments)
    module.backend = None
    module(*arguments)


def test_backend_of_the_constructor_reaches_every_part():
    modules = [
        nn.GatedMultimodalUnit([8, 8, 8], 4, backend="reference"),
        nn.LowRankBilinearFusion([8, 8], 4, 6, backend="reference"),
        nn.ParallelFusion(8, 8, backend="reference"),
        nn.BottleneckFusion(8, layers=2, backend="reference"),
    ]
    parts = [part for module in modules for part in module.modules() if hasattr(part, "backend")]
    assert len(parts) == 17 and all(part.backend == "reference" for part in parts)


@pytest.mark.parametrize("name", MODULES)
def test_state_dict_and_copies(name):
    make, arguments, _ = MODULES[name]
    module, other = randomize(make()), make()
    flat = torch.utils._pytree.tree_leaves
    other.load_state_dict(module.state_dict())
    for same in (other, copy.deepcopy(module)):
        for a, b in zip(flat(module(*arguments)), flat(same(*arguments)), strict=True):
            assert torch.equal(a, b)
    narrow = module.bfloat16()(*torch.utils._pytree.tree_map(torch.Tensor.bfloat16, arguments))
    assert all(y.dtype == torch.bfloat16 for y in flat(narrow))


def test_parameters():
    assert list(nn.GatedMultimodalUnit([8, 6], 4, bias=False).state_dict()) == [
        "hidden.0.weight",
        "hidden.1.weight",
        "gates.0.weight",
    ]
    assert list(nn.LowRankBilinearFusion([8, 6], 4, 5, bias=False).state_dict()) == [
        "factors.0.weight",
        "factors.1.weight",
        "out.weight",
    ]
    assert nn.BottleneckFusion(8).bottleneck.shape == (1, 4, 8)


@pytest.mark.parametrize("name", MODULES)
def test_compile_fullgraph(name):
    torch._dynamo.reset()
    make, arguments, _ = MODULES[name]
    module = randomize(make())
    flat = torch.utils._pytree.tree_leaves
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for a, b in zip(flat(compiled(*arguments)), flat(module(*arguments)), strict=True):
        torch.testing.assert_close(a, b)


SLOW = [pytest.param(name, marks=pytest.mark.slow if name == "BottleneckFusion" else ()) for name in MODULES]


@pytest.mark.parametrize("name", SLOW)
def test_compile_with_a_batch_of_any_size(name):
    torch._dynamo.reset()
    make, arguments, _ = MODULES[name]
    module, flat = randomize(make()), torch.utils._pytree.tree_leaves
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (1, 2):
        larger = torch.utils._pytree.tree_map(lambda x, n=count: torch.cat([x] * n), arguments)
        with torch.compiler.set_stance("default" if count == 1 else "fail_on_recompile"):
            outs = flat(compiled(*larger))
        for a, b in zip(outs, flat(module(*larger)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", MODULES)
def test_autocast(name):
    make, arguments, _ = MODULES[name]
    module, flat = make(), torch.utils._pytree.tree_leaves
    with torch.autocast("cpu", torch.bfloat16):
        outs = flat(module(*arguments))
    for a, b in zip(outs, flat(module(*arguments)), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05)
