"""The reference's forward against loops in Python and against torch's own attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmkernels.ops.attention import reference
from mmkernels.ops.attention.lowered import Lowered
from tests.reference import plain

# fp64: a few hundred roundings of 1.1e-16 on numbers of order one to ten.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("seed", range(60))
def test_forward_is_the_loop(seed):
    call = plain.random_call(seed)
    expected_out, expected_lse = plain.attention(call)
    for out, lse in (reference.forward(call), reference.differentiable_forward(*call)):
        np.testing.assert_allclose(out.numpy(), expected_out, **CLOSE)
        np.testing.assert_allclose(lse.numpy(), expected_lse, **CLOSE)


def test_random_calls_have_every_feature():
    """So that the loop above cannot pass because a feature never occurs."""
    calls = [plain.random_call(seed) for seed in range(60)]
    assert {call.bias_kind for call in calls} == {0, 1, 2, 3}
    assert {len(call.keys) for call in calls} == {1, 2, 3}
    for has in (
        lambda c: c.start is not None and c.visible is not None,
        lambda c: c.start is None and c.visible is None and c.bias_kind == 0,
        lambda c: c.dropout_p > 0 and any(c.offsets),
        lambda c: c.softcap > 0,
        lambda c: c.unmask_empty_rows and c.start is not None,
        lambda c: c.query.shape[1] > c.keys[0].shape[1] > 1,
        lambda c: c.keys[0].shape[0] < c.query.shape[0],
        lambda c: bool((reference.forward(c)[1] == -torch.inf).any()),
    ):
        assert any(map(has, calls))


def call_of(query, key, value, **rest) -> Lowered:
    return Lowered(query, [key], [value], scale=query.shape[-1] ** -0.5, **rest)


def qkv(dtype: torch.dtype = torch.float64, q_len: int = 5, k_len: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(q_len)
    shapes = [(2, 4, q_len, 8), (2, 2, k_len, 8), (2, 2, k_len, 6)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


class TestAgainstTorch:
    def test_plain_causal_masked_biased(self):
        query, key, value = qkv()
        bits, added = torch.rand(2, 1, 5, 7) > 0.3, torch.randn(1, 4, 5, 7, dtype=torch.float64)
        bits[..., 0] = True
        stop = torch.arange(1, 6, dtype=torch.int32).view(1, 1, 1, -1)
        for rest, theirs in [
            ({}, {}),
            ({"visible": bits}, {"attn_mask": bits}),
            ({"bias": [added], "bias_kind": 1}, {"attn_mask": added}),
            ({"start": torch.zeros_like(stop), "stop": stop}, {"is_causal": True}),
        ]:
            expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True, **theirs)
            for run in (reference.forward, lambda call: reference.differentiable_forward(*call)):
                torch.testing.assert_close(run(call_of(query, key, value, **rest))[0], expected, **CLOSE)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_dtypes(self, dtype):
        """16-bit inputs are computed in fp32: one rounding at the end, plus fp32's error."""
        query, key, value = qkv(dtype)
        exact = F.scaled_dot_product_attention(*(t.double() for t in (query, key, value)), enable_gqa=True)
        out, lse = reference.forward(call_of(query, key, value))
        assert (out.dtype, lse.dtype) == (dtype, torch.float32)
        limit = torch.finfo(dtype).eps / 2 * exact.abs() + 1e-6
        assert bool(((out.double() - exact).abs() <= limit).all())

    def test_autocast_changes_nothing(self):
        query, key, value = qkv(torch.float32)
        call = call_of(query, key, value, bias=[torch.randn(7)[None, None, None]], bias_kind=1)
        expected = reference.forward(call)
        with torch.autocast("cpu", torch.bfloat16):
            for found in (reference.forward(call), reference.differentiable_forward(*call)):
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


class TestLayout:
    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3), (1, 0, 2, 3)])
    def test_output_is_dense_in_the_querys_order(self, order):
        query, key, value = qkv()
        back = [order.index(axis) for axis in range(4)]
        query = query.permute(order).contiguous().permute(back)
        for out, _ in (
            reference.forward(call_of(query, key, value)),
            reference.differentiable_forward(*call_of(query, key, value)),
        ):
            assert out.permute(order).is_contiguous()

    def test_strides_are_free(self):
        query, key, value = qkv()
        odd = [torch.stack([t, t], dim=-1)[..., 0] for t in (query, key, value)]
        torch.testing.assert_close(reference.forward(call_of(*odd)), reference.forward(call_of(query, key, value)))


class TestEdges:
    @pytest.mark.parametrize("batch, q_len, k_len", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
    @pytest.mark.parametrize("masked", [False, True])
    def test_nothing_to_do(self, batch, q_len, k_len, masked):
        query, key = torch.randn(batch, 2, q_len, 4), torch.randn(batch, 2, k_len, 4)
        visible = torch.ones(1, 1, 1, k_len, dtype=torch.bool) if masked else None
        call = call_of(query, key, key, visible=visible)
        for out, lse in (reference.forward(call), reference.differentiable_forward(*call)):
            assert torch.equal(out, torch.zeros(batch, 2, q_len, 4))
            assert lse.shape == (batch, 2, q_len) and bool((lse == -torch.inf).all()) == (
                lse.numel() == 0 or k_len == 0
            )
        grads = reference.backward(torch.ones_like(out), None, call, out, lse, [True] * 4)
        assert torch.equal(grads[0], torch.zeros_like(query)) and torch.equal(grads[1][0], torch.zeros_like(key))

    def test_scale_zero_and_one_are_real_values(self):
        query, key, value = qkv()
        mean = reference.forward(call_of(query, key, value)._replace(scale=0.0))[0]
        torch.testing.assert_close(mean, value.mean(2, keepdim=True).repeat_interleave(2, 1).expand_as(mean), **CLOSE)
        one = reference.forward(call_of(query, key, value)._replace(scale=1.0))[0]
        torch.testing.assert_close(one, F.scaled_dot_product_attention(query, key, value, scale=1.0, enable_gqa=True))

    def test_dropout_of_everything(self):
        query, key, value = qkv()
        call = call_of(query, key, value, dropout_p=1.0, seed=torch.tensor(1))
        out, lse = reference.forward(call)
        assert torch.equal(out, torch.zeros_like(out))
        assert torch.equal(lse, reference.forward(call_of(query, key, value))[1])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    @pytest.mark.parametrize("bias_dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_rows_of_finfo_min_are_uniform(self, dtype, bias_dtype):
        query, key, value = (t.to(dtype) for t in qkv())
        bias = torch.full((1, 1, 1, 7), torch.finfo(bias_dtype).min, dtype=bias_dtype)
        out, lse = reference.forward(call_of(query / 1024, key, value, bias=[bias], bias_kind=1))
        mean = value.double().mean(2, keepdim=True).repeat_interleave(2, 1).expand_as(out)
        assert bool(lse.isfinite().all())
        # finfo.min of fp16 still resolves differences of the logits, which are below 0.05 here.
        torch.testing.assert_close(out.double(), mean, rtol=0, atol=0.03 if bias_dtype == torch.float16 else 5e-3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_gradients_of_rows_of_finfo_min_are_uniform(self, dtype):
        query, key, value = (t.to(dtype) for t in qkv())
        bias = torch.full((1, 1, 1, 7), torch.finfo(dtype).min, dtype=dtype)
        call = call_of(query / 1024, key, value, bias=[bias], bias_kind=1)
        out, lse = reference.forward(call)
        grads = reference.backward(torch.ones_like(out), None, call, out, lse, [True] * 4)
        # Two query heads of five rows share a key head, each row weighs each of seven keys with 1 / 7.
        torch.testing.assert_close(grads[2][0], torch.full_like(value, 2 * 5 / 7))
        leaves = [t.clone().requires_grad_() for t in (query / 1024, key, value)]
        auto = reference.differentiable_forward(*call_of(*leaves, bias=[bias], bias_kind=1))[0]
        torch.testing.assert_close(torch.autograd.grad(auto.sum(), leaves[2])[0], grads[2][0])

    def test_without_lse(self):
        call = call_of(*qkv())
        out, lse = reference.forward(call, with_lse=False)
        assert lse is None and torch.equal(out, reference.forward(call)[0])
        assert reference.differentiable_forward(*call, need_lse=False)[1] is None


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("shared", [0, 1])
def test_segments_of_one_batch_entry_broadcast_to_any_batch(batch, shared):
    """To an empty one too, which is smaller than 1."""
    query = torch.randn(batch, 4, 5, 8, dtype=torch.float64)
    segments = [torch.randn(1 if i == shared else batch, 2, 3 + i, 8, dtype=torch.float64) for i in range(2)]
    whole = torch.cat([x.expand(batch, -1, -1, -1) for x in segments], 2)
    expected = reference.forward(call_of(query, whole, whole))
    call = Lowered(query, segments, segments, scale=8**-0.5)
    for got in (reference.forward(call), reference.differentiable_forward(*call)):
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b, **CLOSE)


def test_compiles_in_one_graph():
    query, key, value = qkv()
    call = call_of(query, key, value, visible=torch.rand(2, 1, 5, 7) > 0.4, dropout_p=0.3, seed=torch.tensor(5))
    compiled = torch.compile(reference.differentiable_forward, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*call), reference.differentiable_forward(*call), **CLOSE)
