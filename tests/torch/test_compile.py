"""torch.compile(fullgraph=True) with inductor: values, gradients and strides of eager calls, static and dynamic."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import mmkernels as mmk
from tests.torch.samples import tensors

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def same_as_eager(function, compiled, arguments, exact=True):
    """Values, strides and gradients; the same kernels run on both sides, so the bits are the same too."""
    found = []
    for run in (function, compiled):
        leaves = [a.detach().clone().requires_grad_() if is_leaf(a) else a for a in arguments]
        torch.manual_seed(11)
        outputs = run(*leaves)
        wanted = [leaf for leaf in leaves if is_leaf(leaf)]
        loss = sum((output * torch.arange(1.0, output.numel() + 1).view_as(output)).sum() for output in outputs)
        found.append((outputs, torch.autograd.grad(loss, wanted)))
    (eager, eager_grads), (traced, traced_grads) = found
    assert len(eager) == len(traced) and len(eager_grads) == len(traced_grads) > 0
    for ours, theirs in zip((*traced, *traced_grads), (*eager, *eager_grads), strict=True):
        if exact:
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=64 * EPS, atol=64 * EPS * theirs.abs().max().item())
    assert [o.stride() for o in traced] == [o.stride() for o in eager]


def is_leaf(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def operands(batch=2, q_len=6, k_len=7):
    return tensors((batch, 4, q_len, 16), (batch, 2, k_len, 16), (batch, 2, k_len, 16))


def everything(query, key, value, lengths, dense, bias, seed):
    """One graph with most of what a call may have, masks built inside."""
    plain, lse = mmk.attention(query, key, value, return_lse=True, softcap=3.0)
    causal = mmk.attention(query, key, value, mask=mmk.Mask.causal("bottom_right") & mmk.Mask.key_lengths(lengths))
    biased = mmk.attention(query, key, value, mask=dense, bias=bias, dropout_p=0.3, seed=seed)
    drawn = mmk.attention(query, key, value, dropout_p=0.5)
    return plain, torch.where(lse.isfinite(), lse, 0.0), causal, biased, drawn


def test_masks_bias_and_dropout_in_one_graph():
    arguments = (
        *operands(),
        torch.tensor([3, 7]),
        torch.rand(2, 1, 6, 7) > 0.3,
        torch.randn(1, 4, 6, 7),
        torch.tensor(5),
    )
    # The drawn seed comes from the generator that inductor uses: eager's own only with this option.
    compiled = torch.compile(everything, fullgraph=True, options={"fallback_random": True})
    same_as_eager(everything, compiled, arguments)


def test_drawn_seeds_follow_manual_seed():
    operands_ = operands()
    compiled = torch.compile(lambda *x: mmk.attention(*x, dropout_p=0.5), fullgraph=True)
    torch.manual_seed(1)
    first, second = compiled(*operands_), compiled(*operands_)
    torch.manual_seed(1)
    assert torch.equal(compiled(*operands_), first)
    assert not torch.equal(first, second)


def test_mask_from_outside_and_as_an_input():
    outside = mmk.Mask.key_lengths(torch.tensor([3, 7]))

    def function(query, key, value, mask):
        return (
            mmk.attention(query, key, value, mask=outside),
            mmk.attention(query, key, value, mask=mask & mmk.Mask.causal()),
        )

    arguments = (*operands(), mmk.Mask.prefix(torch.tensor([2, 4])))
    same_as_eager(function, torch.compile(function, fullgraph=True), arguments)


def test_dynamic_shapes_without_recompiling():
    counter = CompileCounterWithBackend("inductor")

    def function(query, key, value, table):
        return (
            mmk.attention(query, key, value, mask=mmk.Mask.causal(), bias=mmk.RelativeBias(table)),
            mmk.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True),
        )

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    graphs = 0
    for batch, q_len, k_len in ((3, 6, 7), (5, 9, 11), (8, 17, 33)):  # sizes that coincide would be taken for one
        (table,) = tensors((4, q_len + k_len - 1), seed=2)
        same_as_eager(function, compiled, (*operands(batch, q_len, k_len), table))
        graphs = graphs or counter.frame_count
    assert counter.frame_count == graphs > 0


def test_segments_and_joint_attention():
    def function(query, key, value, key2, value2):
        mask = mmk.Mask.segments([mmk.Mask.causal(), None])
        joint = mmk.joint_attention([query, 2 * query], [key, key2], [value, value2])
        return mmk.attention(query, [key, key2], [value, value2], mask=mask), *joint

    same_as_eager(
        function, torch.compile(function, fullgraph=True), (*operands(), *tensors((1, 2, 3, 16), (1, 2, 3, 16), seed=4))
    )


def test_varlen_of_a_fused_projection():
    ends = torch.tensor([0, 2, 2, 6], dtype=torch.int32)

    def function(fused, cu_seqlens):
        query, key, value = fused.unbind(1)
        return (mmk.attention_varlen(query, key, value, cu_seqlens, cu_seqlens, mask=mmk.Mask.causal()),)

    same_as_eager(function, torch.compile(function, fullgraph=True), (*tensors((6, 3, 4, 16)), ends))


def test_autocast():
    def function(query, key, value, bias):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = mmk.attention(query, key, value, bias=bias)
        assert out.dtype == torch.bfloat16
        return (out,)

    same_as_eager(function, torch.compile(function, fullgraph=True), (*operands(), *tensors((4, 6, 7), seed=5)))


def test_torch_func_inside_a_compiled_function():
    def function(query, key, value):
        return (torch.func.grad(lambda q: mmk.attention(q, key, value).sin().sum())(query),)

    query, key, value = operands()
    (traced,) = torch.compile(function, fullgraph=True, backend="aot_eager")(query, key, value)
    (eager,) = function(query, key, value)
    torch.testing.assert_close(traced, eager, rtol=64 * EPS, atol=64 * EPS)


def test_a_backend_that_cannot_run_raises_from_the_graph():
    query, key, value = operands()
    compiled = torch.compile(lambda q, k, v: mmk.attention(q, k, v, backend="cuda"), fullgraph=True)
    with pytest.raises(ValueError, match="cuda"):
        compiled(query, key, value)


def test_a_batch_that_the_compiler_cannot_know():
    """As in SmolVLM, which drops the images that are padding."""

    def drop(x, keep):
        q, k, v = x[keep].unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        return mmk.attention(q, k, v, mask=mmk.Mask.causal())

    x, keep = torch.randn(3, 5, 48), torch.tensor([True, False, True])
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(drop, fullgraph=True)
        torch.testing.assert_close(compiled(x, keep), drop(x, keep))
        torch.testing.assert_close(compiled(x, ~keep), drop(x, ~keep))
