"""The written-out backward, and torch's derivatives of every kind through the differentiable forward."""

from __future__ import annotations

import pytest
import torch

from mmkernels.ops.attention import reference
from mmkernels.ops.attention.lowered import Lowered
from tests.reference import plain

CLOSE = {"rtol": 1e-11, "atol": 1e-11}
ALL = [True] * 4


def flat(grads: tuple) -> list[torch.Tensor]:
    return [grads[0], *grads[1], *grads[2], *grads[3]]


def finite_lse(lse: torch.Tensor) -> torch.Tensor:
    return torch.where(lse == -torch.inf, 0.0, lse)


def both_backwards(call: Lowered, with_lse: bool = True) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Gradients of random multiples of (out, lse): written out, and by autograd."""
    leaves = [tensor.clone().requires_grad_() for tensor in plain.operands(call)]
    out, lse = reference.differentiable_forward(*plain.with_operands(call, leaves))
    generator = torch.Generator().manual_seed(1)
    grad_out = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    grad_lse = torch.randn(lse.shape, generator=generator, dtype=torch.float64) if with_lse else None
    total = (out * grad_out).sum()
    if grad_lse is not None:
        total = total + (finite_lse(lse) * grad_lse).sum()
    expected = torch.autograd.grad(total, leaves, materialize_grads=True, allow_unused=True)
    found = reference.backward(grad_out, grad_lse, call, *reference.forward(call), ALL)
    return flat(found), list(expected)


@pytest.mark.parametrize("seed", range(60))
def test_backward_is_autograds(seed):
    call = plain.random_call(seed)
    found, expected = both_backwards(call, with_lse=seed % 3 > 0)
    for tensor, mine, theirs in zip(plain.operands(call), found, expected, strict=True):
        assert (mine.shape, mine.dtype) == (tensor.shape, tensor.dtype)
        torch.testing.assert_close(mine, theirs, **CLOSE)


@pytest.mark.parametrize("needs", [[i == n for i in range(4)] for n in range(4)] + [[False] * 4])
def test_only_what_is_needed(needs):
    call = plain.random_call(3, bias_kind=1, mask="both", k_lens=[3, 3])
    out, lse = reference.forward(call)
    grad_out = torch.randn_like(out)
    everything = reference.backward(grad_out, None, call, out, lse, ALL)
    some = reference.backward(grad_out, None, call, out, lse, needs)
    for need, mine, whole in zip(needs, some, everything):
        if need:
            torch.testing.assert_close(mine, whole, rtol=0, atol=0)
        else:
            assert mine == [] or mine.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_have_their_tensors_dtype(dtype):
    call = plain.random_call(5, dtype, bias_kind=0, dropout_p=0.0, dim=8)
    call = call._replace(
        bias=[torch.randn(call.query.shape[1], 1, sum(k.shape[2] for k in call.keys))[None]], bias_kind=1
    )
    out, lse = reference.forward(call)
    grads = flat(reference.backward(torch.ones_like(out), None, call, out, lse, ALL))
    assert [grad.dtype for grad in grads] == [tensor.dtype for tensor in plain.operands(call)]
    exact = both_dtype(call)
    for grad, reference_grad in zip(grads, exact):
        # 16-bit: out and the gradients are rounded once, and delta inherits out's rounding.
        scale = reference_grad.abs().max().item() + 1e-3
        assert (grad.double() - reference_grad).abs().max().item() <= 8 * torch.finfo(dtype).eps * scale


def both_dtype(call: Lowered) -> list[torch.Tensor]:
    """The gradients for a gradient of ones, in fp64."""
    wide = plain.with_operands(call, [tensor.double() for tensor in plain.operands(call)])
    out, lse = reference.forward(wide)
    return flat(reference.backward(torch.ones_like(out), None, wide, out, lse, ALL))


# Small calls that between them have every mask, bias, segments, groups, empty rows, softcap and dropout.
SMALL = {
    "plain": {"mask": "none", "bias_kind": 0, "k_lens": [3]},
    "intervals relative": {"mask": "intervals", "bias_kind": 2, "k_lens": [2, 2], "softcap": 1.5},
    "both dense": {"mask": "both", "bias_kind": 1, "k_lens": [4], "bias_inf": True},
    "dropout decomposed": {"mask": "dense", "bias_kind": 3, "k_lens": [4], "dropout_p": 0.3},
    "no keys": {"mask": "none", "bias_kind": 0, "k_lens": [0]},
}


# Seeds whose calls have a gradient in every operand and, where something is masked, an empty row beside others.
SEEDS = {"intervals relative": 10, "both dense": 6, "dropout decomposed": 3}


def small_call(name: str) -> Lowered:
    seed = SEEDS.get(name, 1)
    return plain.random_call(seed, batch=2, k_heads=1, group=2, q_len=2, dim=3, value_dim=4, **SMALL[name])


def function_of(call: Lowered):
    """(out, finite lse) as a function of the operands; -inf entries of a dense bias stay where they are."""
    fixed = [tensor == -torch.inf for tensor in plain.operands(call)]

    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = [torch.where(at, -torch.inf, tensor) for at, tensor in zip(fixed, tensors)]
        out, lse = reference.differentiable_forward(*plain.with_operands(call, tensors))
        return out, finite_lse(lse)

    return function, [torch.where(at, 0.0, tensor) for at, tensor in zip(fixed, plain.operands(call))]


@pytest.mark.parametrize("name", SMALL)
class TestTorchDerivatives:
    def test_first_and_second(self, name):
        function, inputs = function_of(small_call(name))
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        assert torch.autograd.gradcheck(
            function, leaves, fast_mode=True, check_forward_ad=True, check_batched_grad=True
        )
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)

    def test_jvp(self, name):
        function, inputs = function_of(small_call(name))
        generator = torch.Generator().manual_seed(2)
        along = tuple(torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in inputs)
        _, tangents = torch.func.jvp(function, tuple(inputs), along)
        step = 1e-6
        ahead = function(*(t + step * d for t, d in zip(inputs, along)))
        behind = function(*(t - step * d for t, d in zip(inputs, along)))
        for tangent, high, low in zip(tangents, ahead, behind):
            # Central difference: O(step**2) truncation, 1e-16 / step rounding.
            torch.testing.assert_close(tangent, (high - low) / (2 * step), rtol=1e-6, atol=1e-7)

    def test_vmap_of_grad(self, name):
        function, inputs = function_of(small_call(name))

        def loss(*tensors: torch.Tensor) -> torch.Tensor:
            out, lse = function(*tensors)
            return (out.sin() + 1).sum() + lse.square().sum()

        gradient = torch.func.grad(loss, argnums=tuple(range(len(inputs))))
        generator = torch.Generator().manual_seed(3)
        several = [torch.randn(3, *t.shape, generator=generator, dtype=t.dtype) for t in inputs]
        found = torch.vmap(gradient)(*several)
        for index in range(3):
            leaves = [t[index].clone().requires_grad_() for t in several]
            alone = torch.autograd.grad(loss(*leaves), leaves, materialize_grads=True, allow_unused=True)
            for mine, theirs in zip(found, alone):
                torch.testing.assert_close(mine[index], theirs, **CLOSE)

    def test_hessian_vector_product(self, name):
        """Forward over reverse and reverse over reverse agree."""
        function, inputs = function_of(small_call(name))

        def loss(query: torch.Tensor) -> torch.Tensor:
            out, lse = function(query, *inputs[1:])
            return out.square().sum() + lse.square().sum()

        along = torch.randn_like(inputs[0])
        gradient = torch.func.grad(loss)
        forward = torch.func.jvp(gradient, (inputs[0],), (along,))[1]
        backward = torch.func.vjp(gradient, inputs[0])[1](along)[0]
        torch.testing.assert_close(forward, backward, **CLOSE)
        assert name == "no keys" or bool((forward != 0).any())
