"""The drop-in against torch's scaled_dot_product_attention: ranks, masks, broadcasting, GQA, dropout, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from tests.torch.samples import tensors

EPS = torch.finfo(torch.float32).eps


def check(shapes, **options):
    """Values in the tensors' dtype against torch in fp64, and gradients too."""
    leaves = tensors(*shapes, grad=True)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    doubled = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in options.items()
    }
    ours = mmk.scaled_dot_product_attention(*leaves, **options)
    theirs = F.scaled_dot_product_attention(*exact, **doubled)
    assert ours.shape == theirs.shape
    upstream = torch.linspace(-1, 1, ours.numel()).view_as(ours)
    results = zip(
        (ours, *torch.autograd.grad(ours, leaves, upstream)),
        (theirs, *torch.autograd.grad(theirs, exact, upstream.double())),
        strict=True,
    )
    for found, true in results:
        torch.testing.assert_close(found.double(), true, rtol=64 * EPS, atol=64 * EPS * true.abs().max().item())


@pytest.mark.parametrize("lead", [(), (4,), (2, 4), (3, 2, 4), (2, 1, 2, 4)])
@pytest.mark.parametrize("causal", [False, True])
def test_any_leading_dimensions(lead, causal):
    check([(*lead, 5, 8), (*lead, 7, 8), (*lead, 7, 6)], is_causal=causal)


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 4, 5, 8), (1, 1, 7, 8), (1, 1, 7, 8)],
        [(1, 1, 5, 8), (2, 4, 7, 8), (2, 1, 7, 8)],
        [(2, 4, 5, 8), (4, 7, 8), (7, 8)],
        [(3, 2, 4, 5, 8), (2, 1, 7, 8), (3, 1, 4, 7, 8)],
    ],
)
def test_leading_dimensions_broadcast(shapes):
    check(shapes)


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (4, 5, 7), (2, 1, 5, 7), (2, 4, 1, 7)])
@pytest.mark.parametrize("boolean", [True, False])
def test_masks(shape, boolean):
    mask = torch.randn(shape)
    if boolean:
        mask = mask > 0
        mask[..., 0] = True
    check([(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8)], attn_mask=mask, scale=0.7)


@pytest.mark.parametrize("shape", [(5, 7), (3, 1, 1, 5, 7), (2, 4, 5, 7), (3, 2, 4, 5, 7)])
def test_masks_of_five_dimensions(shape):
    check([(3, 2, 4, 5, 8), (3, 2, 4, 7, 8), (3, 2, 4, 7, 8)], attn_mask=torch.randn(shape))


@pytest.mark.parametrize("lead", [(), (2,), (3, 2)])
def test_gqa(lead):
    check([(*lead, 6, 5, 8), (*lead, 2, 7, 8), (*lead, 2, 7, 8)], enable_gqa=True)
    check([(*lead, 6, 5, 8), (*lead, 2, 7, 8), (*lead, 2, 7, 8)], enable_gqa=True, is_causal=True)


def test_float_mask_has_a_gradient():
    leaves = tensors((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8), (4, 1, 7), grad=True)
    found = torch.autograd.grad(mmk.scaled_dot_product_attention(*leaves).sin().sum(), leaves)
    expected = torch.autograd.grad(F.scaled_dot_product_attention(*leaves).sin().sum(), leaves)
    assert found[3].abs().max() > 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=64 * EPS, atol=64 * EPS * theirs.abs().max().item())


def test_a_row_that_sees_nothing_is_zero():
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[2] = False
    query, key, value = tensors((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8))
    out = mmk.scaled_dot_product_attention(query, key, value, mask)
    assert (out[:, :, 2] == 0).all() and (out[:, :, [0, 1, 3, 4]] != 0).all()


def test_dropout_draws_from_torchs_generator():
    query, key, value = tensors((2, 4, 5, 8), (2, 4, 64, 8), (2, 4, 64, 8))
    torch.manual_seed(2)
    first, second = (mmk.scaled_dot_product_attention(query, key, value, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(2)
    assert torch.equal(first, mmk.scaled_dot_product_attention(query, key, value, dropout_p=0.5))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(8,), (7, 8), (7, 8)], {}, "query has shape"),
        ([(4, 5, 8), (2, 7, 8), (2, 7, 8)], {}, "enable_gqa=True"),
        ([(5, 5, 8), (2, 7, 8), (2, 7, 8)], {"enable_gqa": True}, "multiple of the 2 heads"),
        ([(5, 8), (7, 8), (7, 8)], {"enable_gqa": True}, "heads axis"),
        ([(4, 5, 8)] * 3, {"is_causal": True, "attn_mask": torch.ones(5, 5, dtype=torch.bool)}, "is_causal"),
        ([(4, 5, 8)] * 3, {"attn_mask": torch.ones(6, 5, dtype=torch.bool)}, "attn_mask has shape"),
        ([(4, 5, 8)] * 3, {"attn_mask": torch.ones(1, 1, 4, 5, 5)}, "attn_mask has shape"),
        ([(4, 5, 8)] * 3, {"dropout_p": 1.5}, "dropout_p"),
    ],
)
def test_wrong_values(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        mmk.scaled_dot_product_attention(*tensors(*shapes), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_mask": torch.ones(5, 5, dtype=torch.int32)}, "attn_mask has dtype"),
        ({"attn_mask": [True]}, "attn_mask must be a tensor"),
        ({"is_causal": 1}, "is_causal must be a bool"),
        ({"enable_gqa": "yes"}, "enable_gqa must be a bool"),
        ({"key": None}, "key must be a tensor"),
    ],
)
def test_wrong_types(options, message):
    for shape in ((4, 5, 8), (1, 4, 5, 8)):  # the second is one that the short way serves
        arguments = dict(zip(("query", "key", "value"), tensors(*[shape] * 3))) | options
        with pytest.raises(TypeError, match=message):
            mmk.scaled_dot_product_attention(**arguments)
