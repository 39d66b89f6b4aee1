"""Second derivatives: through eager calls of every backend, through lse, and through the raw ops."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from tests.torch import samples
from tests.torch.samples import tensors

FLOAT64 = torch.float64
SHAPES = ((1, 2, 3, 4), (1, 1, 4, 4), (1, 1, 4, 3))


def test_gradgradcheck():
    def function(query, key, value, bias):
        return mmk.attention(
            query, key, value, bias=bias, mask=mmk.Mask.causal("bottom_right"), softcap=3.0, return_lse=True
        )

    arguments = tensors(*SHAPES, (1, 2, 3, 4), dtype=FLOAT64, grad=True)
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


def test_one_tensor_as_query_key_and_value():
    (shared,) = tensors((1, 2, 3, 4), dtype=FLOAT64, grad=True)
    assert torch.autograd.gradgradcheck(lambda x: mmk.attention(x, x, x), [shared])


def penalty(leaves, **options):
    """The gradient penalty of a scalar, and its gradient."""
    grads = torch.autograd.grad(mmk.attention(*leaves, **options).sin().sum(), leaves, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_fp32_against_fp64(backend):
    shapes = ((2, 4, 6, 8), (2, 2, 7, 8), (2, 2, 7, 8))
    found = penalty(tensors(*shapes, grad=True), backend=backend)
    exact = penalty(tensors(*shapes, dtype=FLOAT64, grad=True))
    for ours, true in zip(found, exact, strict=True):
        assert true.abs().max() > 0.1
        torch.testing.assert_close(ours.double(), true, rtol=1e-4, atol=1e-5 * true.abs().max().item())


def test_only_some_operands_want_a_gradient():
    query, key, value = tensors(*SHAPES, dtype=FLOAT64)
    key.requires_grad_()
    (grad,) = torch.autograd.grad(mmk.attention(query, key, value).sin().sum(), key, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), key)
    step = 1e-6 * torch.ones_like(key)

    def squared(k):
        k = k.detach().requires_grad_()
        return torch.autograd.grad(mmk.attention(query, k, value).sin().sum(), k)[0].square().sum()

    torch.testing.assert_close(
        (second * step).sum() / 1e-6, (squared(key + step) - squared(key - step)) / 2e-6, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("name", ["causal softcap", "decomposed bias", "segments", "varlen", "dropout"])
def test_raw_backward_op_differentiated_is_the_eager_second_derivative(name):
    call = samples.lowered(name)
    cast = [x.detach().double().requires_grad_() for x in (call.query, *call.keys, *call.values, *call.bias)]
    count = len(call.keys)
    call = call._replace(
        query=cast[0], keys=cast[1 : count + 1], values=cast[count + 1 : 2 * count + 1], bias=cast[2 * count + 1 :]
    )
    forward, backward = torch.ops.mmkernels.attention_forward, torch.ops.mmkernels.attention_backward
    found = []
    for raw in (True, False):
        out, lse = forward(*call, None)
        torch.manual_seed(5)
        grad_out = torch.randn_like(out).requires_grad_()
        if raw:
            needs = [True, True, True, bool(call.bias)]
            query, *lists = backward(grad_out, None, *call, out.detach(), lse.detach(), needs, None)
            grads = [query, *(g for part in lists for g in part)]
        else:
            grads = torch.autograd.grad(out, cast, grad_out, create_graph=True)
        assert len(grads) == len(cast)
        found.append(torch.autograd.grad(sum(g.sin().sum() for g in grads), [*cast, grad_out]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
