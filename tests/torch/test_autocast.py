"""Our autocast rule: query, key and value go to autocast's dtype; bias, lse and float64 keep theirs."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from tests.torch.samples import lowered, tensors

SHAPES = ((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_operands_are_cast_and_the_rest_is_not(dtype):
    leaves = tensors(*SHAPES, (1, 4, 5, 7), grad=True)
    with torch.autocast("cpu", dtype=dtype):
        out, lse = mmk.attention(*leaves[:3], bias=leaves[3], return_lse=True)
    assert out.dtype == dtype and lse.dtype == torch.float32
    expected = mmk.attention(*(x.to(dtype) for x in leaves[:3]), bias=leaves[3], return_lse=True)
    assert torch.equal(out, expected[0]) and torch.equal(lse, expected[1])
    grads = torch.autograd.grad(out.float().sum() + lse.sum(), leaves)
    assert [g.dtype for g in grads] == [torch.float32] * 4
    for ours, theirs in zip(grads, torch.autograd.grad(expected[0].float().sum() + expected[1].sum(), leaves)):
        assert torch.equal(ours, theirs)


def test_mixed_dtypes_are_legal_under_autocast_only():
    query, key, value = tensors(*SHAPES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mmk.attention(query, key.bfloat16(), [value]).dtype == torch.bfloat16
        assert mmk.scaled_dot_product_attention(query, key.half(), value, enable_gqa=True).dtype == torch.bfloat16
        assert mmk.joint_attention([query.half(), query], [key], [value])[1].dtype == torch.bfloat16
        ends = torch.tensor([0, 5], dtype=torch.int32)
        packed = [x[0].transpose(0, 1)[:5] for x in (query, key, value)]
        assert mmk.attention_varlen(*packed, ends, ends).dtype == torch.bfloat16
    with pytest.raises(TypeError, match="key has dtype"):
        mmk.attention(query, key.bfloat16(), value)


def test_float64_is_left_alone():
    query, key, value = tensors(*SHAPES, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse = mmk.attention(query, key, value, return_lse=True)
    assert out.dtype == lse.dtype == torch.float64


@pytest.mark.parametrize("name", ["dense bias", "segments", "varlen"])
def test_raw_op_has_the_same_rule(name):
    call = lowered(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse = torch.ops.mmkernels.attention_forward(*call, None)
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    cast = call._replace(
        query=call.query.bfloat16(), keys=[k.bfloat16() for k in call.keys], values=[v.bfloat16() for v in call.values]
    )
    assert torch.equal(out, torch.ops.mmkernels.attention_forward(*cast, None)[0])
    operands = [t for t in (call.query, *call.keys, *call.bias) if t.requires_grad]
    for operand, grad in zip(operands, torch.autograd.grad(out.float().sum(), operands), strict=True):
        assert grad.dtype == operand.dtype


def test_backward_under_autocast_keeps_the_dtypes():
    leaves = tensors(*SHAPES, grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grads = torch.autograd.grad(mmk.attention(*leaves).float().sum(), leaves)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)
