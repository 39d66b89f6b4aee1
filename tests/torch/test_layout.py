"""Strides: inputs of any strides, outputs and gradients dense in the order of their input, the same in the fake."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import mmkernels as mmk
from mmkernels.layout import dense_strides_like, empty_gradient, empty_like_query, unit_last_stride
from tests.torch.samples import BACKENDS, tensors

B, H, L, D = 2, 4, 5, 8


def transposed():
    return tensors((B, L, H, D))[0].transpose(1, 2)


def heads_first():
    return tensors((H, B, L, D))[0].transpose(0, 1)


def fused():
    return tensors((B, L, 3, H, D))[0].select(2, 1).transpose(1, 2)


def odd_slice():
    return tensors((B, H, L, D + 5))[0][..., 3 : 3 + D]


def expanded():
    return tensors((1, L, H, D))[0].transpose(1, 2).expand(B, -1, -1, -1)


def columns():
    return tensors((B, H, D, L))[0].transpose(2, 3)


VIEWS = [transposed, heads_first, fused, odd_slice, expanded, columns]


@pytest.mark.parametrize(
    ("view", "order"),
    [(transposed, (0, 2, 1, 3)), (heads_first, (1, 0, 2, 3)), (fused, (0, 2, 1, 3)), (odd_slice, (0, 1, 2, 3)),
     (expanded, (0, 2, 1, 3)), (columns, (0, 1, 2, 3))],
    ids=lambda x: getattr(x, "__name__", ""),
)  # fmt: skip
def test_output_is_dense_in_the_querys_order(view, order):
    query = view()
    for last in (D, 3):
        out = empty_like_query(query, last)
        assert out.shape == (B, H, L, last)
        assert out.permute(order).is_contiguous()


def test_axes_without_an_order_keep_their_place():
    query = torch.empty(1, 4, 5, 8).transpose(1, 2).expand(3, 5, 4, 8)
    assert dense_strides_like(query, query.shape) == (160, 8, 40, 1)
    assert empty_like_query(torch.empty(2, 1, 5, 8), 8).is_contiguous()
    assert empty_like_query(torch.empty(0, 4, 5, 8).transpose(1, 2), 8).shape == (0, 5, 4, 8)


def test_unit_last_stride_copies_only_where_it_must():
    dense, view = torch.randn(3, 4), torch.randn(4, 3).t()
    assert unit_last_stride(dense) is dense
    assert unit_last_stride(view).stride() == (4, 1) and torch.equal(unit_last_stride(view), view)
    assert unit_last_stride(torch.zeros(()).expand(0, 4)).stride(-1) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("view", VIEWS)
def test_views_give_the_values_of_dense_copies(view, backend):
    base = view()
    key, value = tensors((B, 2, 7, D), (B, 2, 7, 6), seed=1)
    key = key.transpose(1, 2).contiguous().transpose(1, 2)
    found = []
    for query in (base, base.clone(memory_format=torch.contiguous_format)):
        leaves = [t.detach().requires_grad_() for t in (query, key, value)]
        out = mmk.attention(*leaves, mask=mmk.Mask.causal(), backend=backend)
        found.append((out, *torch.autograd.grad(out.sin().sum(), leaves)))
        assert out.stride() == empty_like_query(query, 6).stride()
        for leaf, grad in zip(leaves, found[-1][1:], strict=True):
            assert grad.stride() == empty_gradient(leaf).stride()
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("view", VIEWS)
def test_fake_has_the_strides_of_eager(view, backend):
    operands = [view(), *tensors((B, 7, 2, D), (B, 2, 7, 6), seed=1)]
    operands[1] = operands[1].transpose(1, 2)

    def run(query, key, value, bias):
        leaves = [t.detach().requires_grad_() for t in (query, key, value, bias)]
        out, lse = mmk.attention(*leaves[:3], bias=leaves[3], return_lse=True, backend=backend)
        call = (*leaves[:1], leaves[1:2], leaves[2:3], None, None, None, None, leaves[3:], 1, 0, None, None, None)
        numbers = (0.5, 0.0, 0.0, False, [0] * 4)
        with torch.no_grad():
            grads = torch.ops.mmkernels.attention_backward(
                torch.ones_like(out), None, *call, *numbers, out, lse, [True] * 4, backend
            )
        return out, lse, grads[0], *grads[1], *grads[2], *grads[3]

    bias = tensors((1, L, H, 7), seed=2)[0].transpose(1, 2)
    eager = run(*operands, bias)
    with FakeTensorMode() as mode:
        fake = run(*(mode.from_tensor(t) for t in (*operands, bias)))
    assert [(t.shape, t.stride(), t.dtype) for t in fake] == [(t.shape, t.stride(), t.dtype) for t in eager]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 4, 3, 4), (1, 1, 3, 4), (2, 4, 1, 1)])
def test_gradients_of_packed_biases_are_dense(shape, backend):
    """As their fakes are: compiled code asserts it."""
    query, key, value, bias = tensors((5, 4, D), (7, 4, D), (7, 4, 6), shape, grad=True)
    ends_q, ends_k = torch.tensor([0, 3, 5], dtype=torch.int32), torch.tensor([0, 4, 7], dtype=torch.int32)
    out = mmk.attention_varlen(query, key, value, ends_q, ends_k, bias=bias, backend=backend)
    assert torch.autograd.grad(out.sin().sum(), bias)[0].is_contiguous()


def test_strided_cumulative_lengths():
    query, key, value = tensors((5, 4, D), (5, 4, D), (5, 4, 6))
    ends = torch.tensor([[0, 9], [3, 9], [5, 9]], dtype=torch.int32)[:, 0]
    found = [mmk.attention_varlen(query, key, value, e, e) for e in (ends, ends.contiguous())]
    assert torch.equal(*found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_tensors_of_any_strides(backend):
    query = torch.zeros(()).expand(0, H, L, D).requires_grad_()
    key, value = torch.zeros(()).expand(2, 0, 1, 7, D).unbind(0)
    for bias in (None, torch.zeros(L, 1)):
        out = mmk.attention(query, key, value, bias=bias, backend=backend)
        assert out.shape == (0, H, L, D)
        assert torch.autograd.grad(out.sum(), query)[0].shape == query.shape
