"""torch.func and forward mode: right values through the reference, and raw ops that refuse rather than return zeros."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import mmkernels as mmk
from tests.torch.samples import lowered, tensors

FLOAT64 = torch.float64
STEP = 1e-6
# Central differences: STEP**2 of truncation plus eps / STEP of rounding; values and derivatives are of order 1 to 10.
TOLERANCE = {"rtol": 1e-7, "atol": 1e-7}


def operands(dtype=FLOAT64):
    return tensors((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 6), (1, 4, 3, 5), dtype=dtype)


def loss(query, key, value, bias):
    """Every public feature with a derivative: segments, mask, bias, softcap, dropout, lse."""
    mask = mmk.Mask.causal("bottom_right") & mmk.Mask.key_lengths(torch.tensor([5, 4]))
    out, lse = mmk.attention(
        query, [key[:, :, :2], key[:, :, 2:]], [value[:, :, :2], value[:, :, 2:]],
        mask=mask, bias=bias, softcap=3.0, dropout_p=0.2, seed=3, return_lse=True,
    )  # fmt: skip
    return out.sin().sum() + lse.cos().sum()


def directional(function, arguments, directions):
    """Central difference of a function of several tensors along a direction."""
    forth = [a + STEP * d for a, d in zip(arguments, directions, strict=True)]
    back = [a - STEP * d for a, d in zip(arguments, directions, strict=True)]
    return (function(*forth) - function(*back)) / (2 * STEP)


def test_grad_against_finite_differences():
    arguments = operands()
    grads = torch.func.grad(loss, argnums=(0, 1, 2, 3))(*arguments)
    for seed in range(3):
        directions = tensors(*(a.shape for a in arguments), seed=seed, dtype=FLOAT64)
        along = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
        torch.testing.assert_close(along, directional(loss, arguments, directions), **TOLERANCE)


def test_jvp_against_finite_differences():
    arguments = operands()
    directions = tensors(*(a.shape for a in arguments), seed=9, dtype=FLOAT64)
    value, tangent = torch.func.jvp(loss, tuple(arguments), tuple(directions))
    torch.testing.assert_close(value, loss(*arguments))
    torch.testing.assert_close(tangent, directional(loss, arguments, directions), **TOLERANCE)


def test_dual_level_carries_the_tangent():
    arguments = operands()
    directions = tensors(*(a.shape for a in arguments), seed=8, dtype=FLOAT64)
    with forward_ad.dual_level():
        dual = loss(*(forward_ad.make_dual(a, d) for a, d in zip(arguments, directions, strict=True)))
        tangent = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(tangent, directional(loss, arguments, directions), **TOLERANCE)


def test_hessian_vector_product_against_finite_differences_of_the_gradient():
    arguments = operands()
    direction = torch.ones_like(arguments[0])
    gradient = torch.func.grad(loss)
    _, product = torch.func.jvp(lambda q: gradient(q, *arguments[1:]), (arguments[0],), (direction,))
    expected = directional(lambda q: gradient(q, *arguments[1:]), arguments[:1], [direction])
    torch.testing.assert_close(product, expected, **TOLERANCE)


def test_jacrev_is_jacfwd():
    query, key, value, _ = operands()

    def row(q):
        return mmk.attention(q, key, value)[0, 0, 0]

    jacobian = torch.func.jacrev(row)(query)
    assert jacobian.abs().max() > 1e-3
    torch.testing.assert_close(jacobian, torch.func.jacfwd(row)(query))


def test_vmap_of_grad_is_a_loop():
    _, key, value, bias = operands()
    (queries,) = tensors((3, 2, 4, 3, 8), seed=4, dtype=FLOAT64)
    gradient = torch.func.grad(loss)
    mapped = torch.vmap(lambda q: gradient(q, key, value, bias))(queries)
    torch.testing.assert_close(mapped, torch.stack([gradient(q, key, value, bias) for q in queries]))


def test_grad_in_fp32_is_the_eager_gradient():
    arguments = operands(torch.float32)
    found = torch.func.grad(loss, argnums=(0, 1, 2, 3))(*arguments)
    leaves = [a.clone().requires_grad_() for a in arguments]
    eager = torch.autograd.grad(loss(*leaves), leaves)
    exact = torch.func.grad(loss, argnums=(0, 1, 2, 3))(*(a.double() for a in arguments))
    for ours, theirs, true in zip(found, eager, exact, strict=True):
        allowed = 2 * (ours - true).abs().max() + 8 * torch.finfo(torch.float32).eps * true.abs().max()
        assert (theirs - true).abs().max() <= allowed


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd, torch.func.jacrev])
def test_named_backend_is_refused_under_a_transform(transform):
    query, key, value = tensors((1, 1, 3, 8), (1, 1, 3, 8), (1, 1, 3, 8))
    with pytest.raises(ValueError, match=r"backend='cpu' cannot run under torch\.func"):
        transform(lambda q: mmk.attention(q, key, value, backend="cpu").sum())(query)
    transform(lambda q: mmk.attention(q, key, value, backend="reference").sum())(query)


def raw_op():
    """The raw op as a function of a query, and a query."""
    query, *rest = lowered("plain", grad=False)
    return lambda q: torch.ops.mmkernels.attention_forward(q, *rest, None)[0], query


def test_raw_op_raises_under_grad_and_jvp():
    raw, query = raw_op()
    with pytest.raises(NotImplementedError, match=r"attention_forward .* torch\.func \(grad\)"):
        torch.func.grad(lambda q: raw(q).sum())(query)
    with pytest.raises(NotImplementedError, match=r"attention_forward .* torch\.func \(jvp\)"):
        torch.func.jvp(raw, (query,), (query,))


def test_raw_op_raises_for_dual_tensors_only():
    raw, query = raw_op()
    expected = raw(query)
    with forward_ad.dual_level():
        assert torch.equal(raw(query), expected)
        with pytest.raises(NotImplementedError, match="forward-mode AD"):
            raw(forward_ad.make_dual(query, query))


def test_raw_backward_op_raises_under_grad():
    call = lowered("plain", grad=False)
    out, lse = torch.ops.mmkernels.attention_forward(*call, None)

    def function(grad_out):
        needs = [True] * 3 + [False]
        return torch.ops.mmkernels.attention_backward(grad_out, None, *call, out, lse, needs, None)[0].sum()

    with pytest.raises(NotImplementedError, match="attention_backward"):
        torch.func.grad(function)(torch.ones_like(out))
