"""concat_fusion against plain torch: exact in fp64 on the reference, and the edges of its arguments everywhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from tests.backends import EVERY, default_runs, runs
from tests.fusion.naive import ACTIVATIONS, CASES, EPS, Case, fused, gradients, naive

every_run = runs(*EVERY)


def equal_in_fp64(case: Case) -> None:
    operands = case.operands()
    found, expected = fused(case, operands), naive(case, operands)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = gradients(found, operands, grad), gradients(expected, operands, grad)
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-11, atol=1e-11, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", CASES)
def test_fp64_equals_plain_torch(name):
    equal_in_fp64(CASES[name])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", [None, "layer", "rms"])
def test_every_activation_and_norm(activation, norm):
    equal_in_fp64(Case(((2, 3, 5), (2, 1, 4)), norm=norm, activation=activation, gate=(6,), residual=(2, 3, 6)))


@default_runs()
def test_torch_norm_modules(run):
    x, y, weight = torch.randn(4, 5), torch.randn(4, 3), torch.randn(6, 8)
    layer = torch.nn.LayerNorm(8)
    rms = torch.nn.RMSNorm(8)  # eps None
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(rms.weight)
    for norm in (layer, rms, torch.nn.LayerNorm(8, elementwise_affine=False), torch.nn.LayerNorm(8, bias=False)):
        with run.active() as backend:
            found = mmk.concat_fusion([x, y], weight, norm=norm, backend=backend)
        torch.testing.assert_close(found, F.linear(norm(torch.cat([x, y], -1)), weight))


def rms_of_small_numbers(dtype, backend):
    x = torch.full((2, 4), 1e-4, dtype=dtype)
    weight = torch.eye(4, dtype=dtype)
    found = mmk.concat_fusion([x[:, :3], x[:, 3:]], weight, norm=mmk.RMSNorm(), backend=backend)
    torch.testing.assert_close(found, F.rms_norm(x, (4,)))


@default_runs()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_eps_none_is_torchs(dtype, run):
    with run.active() as backend:
        rms_of_small_numbers(dtype, backend)


def test_rms_eps_none_is_torchs_in_fp64():
    rms_of_small_numbers(torch.float64, None)


@default_runs()
def test_number_as_gate(run):
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    with run.active() as backend:
        half = mmk.concat_fusion([x], weight, gate=0.5, backend=backend)
        none = mmk.concat_fusion([x], weight, gate=0, backend=backend)
    torch.testing.assert_close(half, 0.5 * F.linear(x, weight))
    torch.testing.assert_close(none, torch.zeros(3, 5))


@every_run
@pytest.mark.parametrize("shapes", [((0, 3, 5), (0, 1, 4)), ((3, 0, 5), (3, 1, 4)), ((0, 5), (4,))])
@pytest.mark.parametrize("norm", [None, "layer", "rms"])
def test_no_rows(norm, shapes, run):
    rows = torch.broadcast_shapes(*(shape[:-1] for shape in shapes))
    case = Case(shapes, norm=norm, activation="gelu", gate=(), residual=(*rows, 6))
    operands = case.operands(torch.float32)
    with run.active() as backend:
        out = fused(case, operands, backend=backend)
        assert out.shape == (*rows, 6)
        found = gradients(out, operands, torch.zeros_like(out))
    for name, tensor in operands.named().items():
        assert found[name].shape == tensor.shape and not found[name].any(), name


@default_runs()
def test_no_features_leave_the_bias(run):
    bias = torch.randn(6, requires_grad=True)
    weight = torch.empty(6, 0, requires_grad=True)
    inputs = [torch.empty(2, 3, 0), torch.empty(3, 0)]
    with run.active() as backend:
        out = mmk.concat_fusion(inputs, weight, bias, activation="relu", backend=backend)
        torch.testing.assert_close(out, bias.relu().expand(2, 3, 6))
        out.sum().backward()
    torch.testing.assert_close(bias.grad, 6.0 * (bias > 0))
    assert weight.grad.shape == (6, 0)


@default_runs()
def test_no_outputs(run):
    x = torch.randn(2, 3, requires_grad=True)
    weight = torch.empty(0, 3, requires_grad=True)
    with run.active() as backend:
        out = mmk.concat_fusion([x], weight, norm=mmk.LayerNorm(), activation="gelu", backend=backend)
        assert out.shape == (2, 0)
        out.sum().backward()
    assert x.grad.shape == (2, 3) and not x.grad.any() and weight.grad.shape == (0, 3)


@default_runs()
def test_gradients_of_some_operands(run):
    """Whatever set of gradients is wanted, each is the one that all together give."""
    case = Case(((5, 17), (1, 6)), 19, norm="layer", activation="gelu", gate=(19,), residual=(5, 19))
    operands = case.operands(torch.float32)
    with run.active() as backend:
        out = fused(case, operands, backend=backend)
        grad = torch.randn_like(out)
        everything = gradients(out, operands, grad)
        for chosen in operands.named():
            for tensor in operands.named().values():
                tensor.requires_grad_(False)
            wanted = operands.named()[chosen].requires_grad_()
            found = torch.autograd.grad(fused(case, operands, backend=backend), wanted, grad)[0]
            torch.testing.assert_close(found, everything[chosen], rtol=1e-6, atol=1e-6)


@default_runs()
def test_one_tensor_in_two_places_has_both_gradients(run):
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    with run.active() as backend:
        out = mmk.concat_fusion([x, x], weight, activation="tanh", residual=x, backend=backend)
        ours = torch.autograd.grad(out.sum(), (x, weight))
    expected = x + torch.tanh(F.linear(torch.cat([x, x], -1), weight))
    torch.testing.assert_close(ours, torch.autograd.grad(expected.sum(), (x, weight)))


def test_one_tensor_in_two_places():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    out = mmk.concat_fusion([x, x], weight, activation="tanh", residual=x)
    expected = x + torch.tanh(F.linear(torch.cat([x, x], -1), weight))
    for create_graph in (False, True):
        ours, theirs = (torch.autograd.grad(y.sum(), x, create_graph=True)[0] for y in (out, expected))
        torch.testing.assert_close(ours, theirs)
        if create_graph:
            ours, theirs = (torch.autograd.grad(g.square().sum(), x)[0] for g in (ours, theirs))
            torch.testing.assert_close(ours, theirs)


@default_runs()
def test_same_as_functional_layer_norm_eps(run):
    """The eps is inside the root, and it is the one given."""
    x = torch.full((1, 4), 2.0)
    x[0, 0] = 2.0 + 1e-3
    with run.active() as backend:
        found = mmk.concat_fusion([x], torch.eye(4), norm=mmk.LayerNorm(eps=1e-2), backend=backend)
    torch.testing.assert_close(found, F.layer_norm(x, (4,), eps=1e-2), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, F.layer_norm(x, (4,), eps=EPS), rtol=0.1)
