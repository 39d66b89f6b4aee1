"""The rules of the ops: vmap, autocast, compile, export, checkpointing, fakes, on the reference and on the kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import mmkernels as mmk
from mmkernels.backend import BackendNotAvailable
from tests.backends import DEFAULT, runs
from tests.fusion.calls import FULL, RMS, as_function, raw_arguments
from tests.fusion.naive import CASES, fused, gradients

OPS = torch.ops.mmkernels


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


@runs(*DEFAULT)
@pytest.mark.parametrize("name", [name if name == "layer broadcast" else slow(name) for name in CASES])
def test_opcheck(name, run):
    case = CASES[name]
    operands = case.operands(torch.float32)
    with run.active() as backend:
        arguments = raw_arguments(case, operands, backend=backend)
    assert set(torch.library.opcheck(OPS.concat_fusion_forward.default, arguments).values()) == {"SUCCESS"}
    with torch.no_grad():
        out, *extras = OPS.concat_fusion_forward(*arguments)
    inputs, weight, bias, norm_weight, norm_bias, gate, _, kind, eps, activation, _, backend = arguments
    needs = [True] * (len(inputs) + 5)
    needs[0] = needs[-2] = False
    grad = torch.randn_like(out).requires_grad_()
    parameters = (weight, bias, norm_weight, norm_bias, gate)
    arguments = (grad, inputs, *parameters, kind, eps, activation, *extras, needs, backend)
    assert set(torch.library.opcheck(OPS.concat_fusion_backward.default, arguments).values()) == {"SUCCESS"}


@runs(*DEFAULT)
@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_fake_agrees_with_real(name, save, run):
    """Shapes, dtypes and strides of every output, for what is saved and what is not."""
    with run.active() as backend:
        arguments = raw_arguments(CASES[name], CASES[name].operands(torch.bfloat16), save, backend)
    with torch.no_grad():
        real = OPS.concat_fusion_forward(*arguments)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        faked = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: mode.from_tensor(t.detach()), arguments)
        fake = OPS.concat_fusion_forward(*faked)
    for a, b in zip(real, fake, strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def test_named_backend_is_not_replaced_by_the_reference():
    x, weight = torch.randn(2, 3), torch.randn(4, 3)
    with pytest.raises(BackendNotAvailable, match=r"'cpu' cannot run concat_fusion_forward.*no torch\.float64 kernels"):
        mmk.concat_fusion([x.double()], weight.double(), backend="cpu")
    with pytest.raises(BackendNotAvailable, match=r"no torch\.float64 kernels"):
        OPS.concat_fusion_forward(*raw_arguments(RMS, RMS.operands(), backend="cpu"))
    with pytest.raises(ValueError, match=r"torch\.func"):
        torch.func.grad(lambda w: mmk.concat_fusion([x], w, backend="cpu").sum())(weight)
    torch.testing.assert_close(mmk.concat_fusion([x], weight, backend="reference"), F.linear(x, weight))


@runs(*DEFAULT)
@pytest.mark.parametrize(
    "batched", [(0,), (0, 1), (2,), (3,), (4,), (7,), (8,), (0, 6), (1, 5), (0, 7, 8), tuple(range(9))]
)
def test_vmap(batched, run):
    """Any set of operands may have the batch axis: sources and epilogue go in one call, parameters in a loop."""
    operands = FULL.operands(torch.float32)
    with run.active() as backend:
        function, tensors = as_function(FULL, operands, backend)
    stacked = [torch.stack([t, 2 * t, t - 1], i % 2) if i in batched else t for i, t in enumerate(tensors)]
    in_dims = tuple(i % 2 if i in batched else None for i in range(len(tensors)))
    found = torch.vmap(function, in_dims)(*stacked)
    entries = [[t if d is None else t.select(d, j) for t, d in zip(stacked, in_dims, strict=True)] for j in range(3)]
    expected = torch.stack([function(*entry) for entry in entries])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(found.sum(), tensors, retain_graph=True)
    theirs = torch.autograd.grad(expected.sum(), tensors)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_vmap_over_the_backward():
    operands = RMS.operands()
    function, tensors = as_function(RMS, operands)
    out = function(*tensors)
    grads = torch.randn(4, *out.shape, dtype=out.dtype)
    found = torch.vmap(lambda g: torch.autograd.grad(out, tensors, g, retain_graph=True))(grads)
    for i, g in enumerate(grads):
        for ours, theirs in zip(found, torch.autograd.grad(out, tensors, g, retain_graph=True), strict=True):
            torch.testing.assert_close(ours[i], theirs)


@runs(*DEFAULT)
@pytest.mark.parametrize("route", ["eager", "op"])
def test_autocast(route, run):
    """Sources and weight go to bf16; norm, bias, gate and the residual stream stay in fp32."""
    operands = FULL.operands(torch.float32)
    low = FULL.operands(torch.float32)
    low.inputs = [x.bfloat16() for x in operands.inputs]
    low.rest = {**operands.rest, "weight": operands.rest["weight"].bfloat16()}
    with run.active() as backend:
        expected = fused(FULL, low, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        if route == "eager":
            found = fused(FULL, operands, backend=backend)
        else:
            found = OPS.concat_fusion_forward(*raw_arguments(FULL, operands, backend=backend))[0]
    assert found.dtype == torch.float32  # the residual's
    assert torch.equal(found, expected)
    for name, g in gradients(found, operands, torch.ones_like(found)).items():
        assert g.dtype == torch.float32 and g.isfinite().all(), name


def test_autocast_leaves_fp64_alone():
    x, weight = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = mmk.concat_fusion([x], weight)
    torch.testing.assert_close(found, F.linear(x, weight), rtol=1e-14, atol=1e-14)


@runs(*DEFAULT)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic, run):
    torch._dynamo.reset()
    operands = FULL.operands(torch.float32)
    with run.active() as backend:
        function, tensors = as_function(FULL, operands, backend)
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    ours, theirs = compiled(*tensors), function(*tensors)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours.sum(), tensors), torch.autograd.grad(theirs.sum(), tensors), strict=True):
        torch.testing.assert_close(a, b)


class Fusion(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(9)
        self.linear = torch.nn.Linear(9, 6)

    def forward(self, text, image):
        return mmk.concat_fusion(
            [text, image], self.linear.weight, self.linear.bias, norm=self.norm, activation="gelu", gate=0.5
        )


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model, arguments = Fusion(), (torch.randn(2, 3, 5), torch.randn(2, 1, 4))
    batch, tokens = torch.export.Dim("batch", min=2), torch.export.Dim("tokens", min=2)
    program = torch.export.export(model, arguments, dynamic_shapes=({0: batch, 1: tokens}, {0: batch}), strict=strict)
    assert any("concat_fusion_forward" in str(node.target) for node in program.graph.nodes)
    larger = (torch.randn(5, 7, 5), torch.randn(5, 1, 4))
    torch.testing.assert_close(program.module()(*larger), model(*larger))


@runs(*DEFAULT)
def test_checkpoint_gives_the_same_gradients(run):
    operands = FULL.operands(torch.float32)
    with run.active() as backend:
        function, tensors = as_function(FULL, operands, backend)
    ours = torch.autograd.grad(checkpoint(function, *tensors, use_reentrant=False).sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(ours, torch.autograd.grad(function(*tensors).sum(), tensors)))


def test_meta_tensors():
    inputs, weight = [torch.empty(2, 3, 4, device="meta"), torch.empty(2, 1, 5, device="meta")], torch.empty(6, 9)
    assert mmk.concat_fusion(inputs, weight.to("meta"), activation="gelu").shape == (2, 3, 6)
