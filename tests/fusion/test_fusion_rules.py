"""The rules of the ops: derivatives of every order, vmap, autocast, compile, export, fakes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import mmkernels as mmk
from tests.fusion.naive import CASES, Case, fused, gradients, naive

FULL = Case(((2, 3, 4), (2, 1, 3), (2,)), out=3, norm="layer", activation="gelu", gate=(3, 1), residual=(2, 1, 3))
RMS = Case(((3, 2), (1, 3)), out=2, norm="rms", activation="silu", gate=(2,))
PLAIN = Case(((3, 2), (1, 3)), out=2)
OPS = torch.ops.mmkernels


def as_function(case, operands):
    """(function of flat tensors, tensors)."""
    names = list(operands.named())
    count = len(operands.inputs)

    def function(*tensors):
        named = dict(zip(names, tensors, strict=True))
        replaced = type(operands)(list(tensors[:count]), {k: named.get(k) for k in operands.rest})
        return fused(case, replaced)

    return function, tuple(operands.named().values())


def raw_arguments(case, operands, save=True):
    rest = operands.rest
    kind = {None: 0, "layer": 1, "rms": 2}[case.norm]
    tensors = (rest["weight"], rest["bias"], rest["norm_weight"], rest["norm_bias"], rest["gate"], rest["residual"])
    return (operands.inputs, *tensors, kind, 1e-5, case.activation or "none", save, None)


@pytest.mark.parametrize("case", [FULL, RMS, PLAIN], ids=["full", "rms", "plain"])
def test_gradcheck(case):
    function, tensors = as_function(case, case.operands())
    assert torch.autograd.gradcheck(function, tensors, check_batched_grad=True)
    assert torch.autograd.gradcheck(function, tensors, check_forward_ad=True, check_backward_ad=False)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_raw_op_gradcheck():
    operands = RMS.operands()
    inputs, weight, bias, norm_weight, norm_bias, gate, *rest = raw_arguments(RMS, operands)

    def function(a, b, weight, bias, norm_weight, gate):
        return OPS.concat_fusion_forward([a, b], weight, bias, norm_weight, norm_bias, gate, *rest)[0]

    tensors = (*inputs, weight, bias, norm_weight, gate)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("name", ["plain", "layer broadcast", "rms without affine"])
def test_opcheck(name):
    case = CASES[name]
    operands = case.operands(torch.float32)
    arguments = raw_arguments(case, operands)
    torch.library.opcheck(OPS.concat_fusion_forward.default, arguments)
    with torch.no_grad():
        out, *extras = OPS.concat_fusion_forward(*arguments)
    inputs, weight, bias, norm_weight, norm_bias, gate, _, kind, eps, activation, _, backend = arguments
    needs = [True] * (len(inputs) + 5)
    needs[0] = needs[-2] = False
    grad = torch.randn_like(out).requires_grad_()
    parameters = (weight, bias, norm_weight, norm_bias, gate)
    torch.library.opcheck(
        OPS.concat_fusion_backward.default,
        (grad, inputs, *parameters, kind, eps, activation, *extras, needs, backend),
    )


@pytest.mark.parametrize("name", ["layer broadcast", "rms", "scalar gate"])
def test_backward_multiplies_again_where_nothing_was_saved(name):
    case = CASES[name]
    operands = case.operands()
    grads = []
    for save in (True, False):
        out, product, *_ = OPS.concat_fusion_forward(*raw_arguments(case, operands, save))
        assert (product.numel() > 0) == save
        grads.append(gradients(out, operands, torch.ones_like(out)))
    for key in grads[0]:
        torch.testing.assert_close(grads[0][key], grads[1][key])


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_fake_agrees_with_real(name, save):
    """Shapes, dtypes and strides of every output, for what is saved and what is not."""
    arguments = raw_arguments(CASES[name], CASES[name].operands(torch.bfloat16), save)
    with torch.no_grad():
        real = OPS.concat_fusion_forward(*arguments)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        faked = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: mode.from_tensor(t.detach()), arguments)
        fake = OPS.concat_fusion_forward(*faked)
    for a, b in zip(real, fake, strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def test_second_derivative_of_the_backward_op():
    """The backward op is itself differentiable in the output's gradient and in the operands."""
    operands = RMS.operands()
    inputs, weight, bias, norm_weight, norm_bias, gate, _, kind, eps, activation, _, _ = raw_arguments(RMS, operands)

    def function(grad, a, weight):
        with torch.no_grad():
            _, *extras = OPS.concat_fusion_forward(
                [a, inputs[1]], weight, bias, norm_weight, norm_bias, gate, None, kind, eps, activation, True, None
            )
        detached = [None if t is None else t.detach() for t in (bias, norm_weight, norm_bias, gate)]
        result = OPS.concat_fusion_backward(
            grad, [a, inputs[1].detach()], weight, *detached, kind, eps, activation, *extras, [True] * 7, None
        )
        return (*result[0], result[1], result[5])

    grad = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (grad, inputs[0], weight))


def test_functorch_agrees_with_plain_torch():
    operands = FULL.operands()
    function, tensors = as_function(FULL, operands)

    def twin(*tensors):
        replaced = type(operands)(list(tensors[:3]), dict(zip(operands.rest, tensors[3:], strict=True)))
        return naive(FULL, replaced)

    tangents = tuple(torch.randn_like(t) for t in tensors)
    plain = tuple(t.detach() for t in tensors)
    for ours, theirs in zip(
        torch.func.jvp(function, plain, tangents), torch.func.jvp(twin, plain, tangents), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    ours = torch.func.jacrev(function, argnums=3)(*plain)
    torch.testing.assert_close(ours, torch.func.jacrev(twin, argnums=3)(*plain))
    hessian = torch.func.hessian(lambda w: function(*plain[:3], w, *plain[4:]).sum())(plain[3])
    expected = torch.func.hessian(lambda w: twin(*plain[:3], w, *plain[4:]).sum())(plain[3])
    torch.testing.assert_close(hessian, expected)


def test_raw_op_raises_where_torch_func_differentiates():
    operands = PLAIN.operands()
    arguments = raw_arguments(PLAIN, operands)

    def function(weight):
        return OPS.concat_fusion_forward(arguments[0], weight, *arguments[2:])[0].sum()

    with pytest.raises(NotImplementedError, match=r"mmkernels\.concat_fusion"):
        torch.func.grad(function)(arguments[1].detach())
    with pytest.raises(NotImplementedError, match=r"mmkernels\.concat_fusion"):
        torch.func.jvp(function, (arguments[1].detach(),), (torch.ones_like(arguments[1]),))


def test_named_backend_is_not_replaced_by_the_reference():
    x, weight = torch.randn(2, 3), torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"no C\+\+ kernel for concat_fusion"):
        mmk.concat_fusion([x], weight, backend="cpu")
    with pytest.raises(ValueError, match=r"torch\.func"):
        torch.func.grad(lambda w: mmk.concat_fusion([x], w, backend="cpu").sum())(weight)
    torch.testing.assert_close(mmk.concat_fusion([x], weight, backend="reference"), F.linear(x, weight))


@pytest.mark.parametrize(
    "batched", [(0,), (0, 1), (2,), (3,), (4,), (7,), (8,), (0, 6), (1, 5), (0, 7, 8), tuple(range(9))]
)
def test_vmap(batched):
    """Any set of operands may have the batch axis: sources and epilogue go in one call, parameters in a loop."""
    operands = FULL.operands()
    function, tensors = as_function(FULL, operands)
    stacked = [torch.stack([t, 2 * t, t - 1], i % 2) if i in batched else t for i, t in enumerate(tensors)]
    in_dims = tuple(i % 2 if i in batched else None for i in range(len(tensors)))
    found = torch.vmap(function, in_dims)(*stacked)
    entries = [[t if d is None else t.select(d, j) for t, d in zip(stacked, in_dims, strict=True)] for j in range(3)]
    expected = torch.stack([function(*entry) for entry in entries])
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found.sum(), tensors, retain_graph=True)
    theirs = torch.autograd.grad(expected.sum(), tensors)
    torch.testing.assert_close(ours, theirs)


def test_vmap_over_the_backward():
    operands = RMS.operands()
    function, tensors = as_function(RMS, operands)
    out = function(*tensors)
    grads = torch.randn(4, *out.shape, dtype=out.dtype)
    found = torch.vmap(lambda g: torch.autograd.grad(out, tensors, g, retain_graph=True))(grads)
    for i, g in enumerate(grads):
        for ours, theirs in zip(found, torch.autograd.grad(out, tensors, g, retain_graph=True), strict=True):
            torch.testing.assert_close(ours[i], theirs)


@pytest.mark.parametrize("route", ["eager", "op"])
def test_autocast(route):
    """Sources and weight go to bf16; norm, bias, gate and the residual stream stay in fp32."""
    operands = FULL.operands(torch.float32)
    low = FULL.operands(torch.float32)
    low.inputs = [x.bfloat16() for x in operands.inputs]
    low.rest = {**operands.rest, "weight": operands.rest["weight"].bfloat16()}
    expected = fused(FULL, low)
    with torch.autocast("cpu", torch.bfloat16):
        if route == "eager":
            found = fused(FULL, operands)
        else:
            found = OPS.concat_fusion_forward(*raw_arguments(FULL, operands))[0]
    assert found.dtype == torch.float32  # the residual's
    assert torch.equal(found, expected)
    for name, g in gradients(found, operands, torch.ones_like(found)).items():
        assert g.dtype == torch.float32 and g.isfinite().all(), name


def test_autocast_leaves_fp64_alone():
    x, weight = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = mmk.concat_fusion([x], weight)
    torch.testing.assert_close(found, F.linear(x, weight), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    torch._dynamo.reset()
    operands = FULL.operands(torch.float32)
    function, tensors = as_function(FULL, operands)
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


def test_checkpoint_gives_the_same_gradients():
    operands = FULL.operands(torch.float32)
    function, tensors = as_function(FULL, operands)
    ours = torch.autograd.grad(checkpoint(function, *tensors, use_reentrant=False).sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(ours, torch.autograd.grad(function(*tensors).sum(), tensors)))


def test_meta_tensors():
    inputs, weight = [torch.empty(2, 3, 4, device="meta"), torch.empty(2, 1, 5, device="meta")], torch.empty(6, 9)
    assert mmk.concat_fusion(inputs, weight.to("meta"), activation="gelu").shape == (2, 3, 6)
