"""Derivatives of every order: gradcheck, double backward, torch.func, and what the raw ops refuse."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from tests.backends import default_runs
from tests.fusion.calls import FULL, PLAIN, RMS, as_function, raw_arguments
from tests.fusion.naive import CASES, fused, gradients, naive

OPS = torch.ops.mmkernels


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


@default_runs()
@pytest.mark.parametrize("name", ["layer broadcast", "rms", "scalar gate"])
def test_backward_multiplies_again_where_nothing_was_saved(name, run):
    case = CASES[name]
    operands = case.operands(torch.float32)
    grads = []
    for save in (True, False):
        with run.active() as backend:
            out, product, *_ = OPS.concat_fusion_forward(*raw_arguments(case, operands, save, backend))
            assert (product.numel() > 0) == save
            grads.append(gradients(out, operands, torch.ones_like(out)))
    for key in grads[0]:
        torch.testing.assert_close(grads[0][key], grads[1][key])


@default_runs()
@pytest.mark.parametrize("case", [FULL, RMS, PLAIN], ids=["full", "rms", "plain"])
def test_double_backward(case, run):
    """A gradient penalty on top of the backend's forward: second derivatives come from the reference."""
    found = []
    for dtype in (torch.float32, torch.float64):
        operands = case.operands().to(dtype)
        tensors = tuple(operands.named().values())
        with run.active() as backend:
            out = fused(case, operands, backend=backend) if dtype == torch.float32 else naive(case, operands)
            first = torch.autograd.grad(out.square().sum(), tensors, create_graph=True)
            penalty = sum(g.square().sum() for g in first)
            found.append((*first, *torch.autograd.grad(penalty, tensors, materialize_grads=True)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


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


def test_fp64_residual_of_fp32_inputs() -> None:
    """The forward runs on the reference, whose output is fp64; the backward's other operands suit the kernels."""
    x, weight = torch.randn(3, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    residual = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    out = mmk.concat_fusion([x], weight, activation="tanh", residual=residual)
    assert out.dtype == torch.float64
    found = torch.autograd.grad(out.sum(), [x, weight, residual])
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = torch.autograd.grad(torch.tanh(torch.nn.functional.linear(*wide)).sum(), wide)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[2], torch.ones_like(residual))


def test_gradients_of_transposed_inputs_have_the_strides_of_the_fake() -> None:
    x = torch.randn(7, 2, 5).transpose(0, 1).requires_grad_()
    weight = torch.randn(4, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(mmk.concat_fusion([x], weight).sum(), x)
    assert grad.is_contiguous()
    step = torch.compile(lambda x, weight: mmk.concat_fusion([x], weight).square(), fullgraph=True, backend="aot_eager")
    (traced,) = torch.autograd.grad(step(x, weight).sum(), x)
    (eager,) = torch.autograd.grad(mmk.concat_fusion([x], weight).square().sum(), x)
    assert torch.equal(traced, eager)


def test_a_wider_residual_keeps_its_precision_in_second_derivatives() -> None:
    """bf16 features and an fp32 residual stream: the output's gradient is fp32 and not rounded on the way back."""
    x, weight = torch.randn(3, 8).bfloat16().requires_grad_(), torch.randn(4, 8).bfloat16().requires_grad_()
    residual = torch.randn(3, 4, requires_grad=True)
    grad = torch.randn(3, 4)
    out = mmk.concat_fusion([x], weight, residual=residual, backend="reference")
    (plain,) = torch.autograd.grad(out, x, grad, retain_graph=True)
    (twice,) = torch.autograd.grad(out, x, grad, create_graph=True)
    assert torch.equal(plain, twice)
