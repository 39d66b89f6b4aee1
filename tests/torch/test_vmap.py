"""torch.vmap: the registered rules fold the mapped axis into the batch, or loop; both equal a loop written out."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from tests.torch.samples import tensors

SIZE = 3
EPS = torch.finfo(torch.float32).eps
Q, K, V = (2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6)


def mapped(*shapes, seed=0):
    return tensors(*((SIZE, *shape) for shape in shapes), seed=seed)


def check(function, arguments, in_dims=0):
    """Values and, for the floating arguments, gradients through vmap are those of the loop."""
    dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(arguments)

    def looped(*args):
        results = [function(*(a if d is None else a.select(d, i) for a, d in zip(args, dims, strict=True)))
                   for i in range(SIZE)]  # fmt: skip
        return tuple(torch.stack(column) for column in zip(*results, strict=True))

    found = []
    for run in (torch.vmap(function, in_dims=dims), looped):
        leaves = [a.clone().requires_grad_() if a.is_floating_point() else a for a in arguments]
        outputs = run(*leaves)
        loss = sum((o * torch.arange(1.0, o.numel() + 1).view_as(o)).sum() for o in outputs)
        found.append((*outputs, *torch.autograd.grad(loss, [x for x in leaves if x.requires_grad])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=64 * EPS, atol=64 * EPS * theirs.abs().max().item())


def with_lse(*args, **options):
    out, lse = mmk.attention(*args, return_lse=True, **options)
    return out, torch.where(lse.isfinite(), lse, 0.0)


def test_everything_mapped():
    check(with_lse, mapped(Q, K, V))


def test_other_axes_and_shared_operands():
    query, key, value = tensors((2, SIZE, 4, 5, 8), K, (2, 2, 7, 6, SIZE))
    check(with_lse, (query, key, value), in_dims=(1, None, 4))


def test_mapped_keys_of_batch_one_under_a_larger_batch():
    check(with_lse, (*tensors(Q), *mapped((1, 2, 7, 8), (1, 2, 7, 6))), in_dims=(None, 0, 0))


def test_mapped_lengths_and_dense_mask():
    lengths = torch.tensor([[7, 2], [1, 5], [0, 3]])
    dense = torch.rand(SIZE, 1, 1, 5, 7) > 0.4

    def function(query, key, value, lengths, dense):
        return with_lse(query, key, value, mask=mmk.Mask.key_lengths(lengths) & mmk.Mask.dense(dense))

    check(function, (*mapped(Q, K, V), lengths, dense))


@pytest.mark.parametrize("shape", [(1, 4, 5, 7), (2, 1, 5, 1)])
def test_mapped_bias(shape):
    check(lambda q, k, v, b: with_lse(q, k, v, bias=b), (*mapped(Q, K, V), *mapped(shape, seed=1)))


def test_mapped_table_loops():
    check(lambda q, k, v, t: with_lse(q, k, v, bias=mmk.RelativeBias(t)), (*mapped(Q, K, V), *mapped((4, 11), seed=1)))


def test_shared_table_has_a_gradient():
    check(
        lambda q, k, v, t: with_lse(q, k, v, bias=mmk.RelativeBias(t)),
        (*mapped(Q, K, V), *tensors((4, 11), seed=1)),
        in_dims=(0, 0, 0, None),
    )


def test_dropout_is_that_of_each_call():
    check(lambda q, k, v: with_lse(q, k, v, dropout_p=0.4, seed=6), mapped(Q, K, V))


def test_varlen_loops():
    ends = torch.tensor([0, 2, 5], dtype=torch.int32)
    check(lambda q, k, v: (mmk.attention_varlen(q, k, v, ends, ends),), mapped((5, 4, 8), (5, 2, 8), (5, 2, 6)))


def test_two_levels():
    (queries,) = tensors((2, SIZE, *Q))
    key, value = tensors(K, V, seed=2)
    nested = torch.vmap(torch.vmap(lambda q: mmk.attention(q, key, value)))(queries)
    expected = torch.stack([torch.stack([mmk.attention(q, key, value) for q in row]) for row in queries])
    torch.testing.assert_close(nested, expected, rtol=16 * EPS, atol=16 * EPS)


def test_batched_upstream_gradients():
    leaves = tensors(Q, K, V, grad=True)
    out = mmk.attention(*leaves)
    (upstream,) = tensors((SIZE, *out.shape), seed=3)
    batched = torch.autograd.grad(out, leaves, upstream, is_grads_batched=True, retain_graph=True)
    for position, grad in enumerate(batched):
        single = [torch.autograd.grad(out, leaves, g, retain_graph=True)[position] for g in upstream]
        torch.testing.assert_close(grad, torch.stack(single), rtol=64 * EPS, atol=64 * EPS)


def test_vmap_over_a_backward():
    leaves = tensors(Q, K, V, grad=True)
    out = mmk.attention(*leaves)
    (upstream,) = tensors((SIZE, *out.shape), seed=3)
    batched = torch.vmap(lambda g: torch.autograd.grad(out, leaves, g, retain_graph=True))(upstream)
    for position, grad in enumerate(batched):
        single = [torch.autograd.grad(out, leaves, g, retain_graph=True)[position] for g in upstream]
        torch.testing.assert_close(grad, torch.stack(single), rtol=64 * EPS, atol=64 * EPS)
