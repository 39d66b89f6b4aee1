"""The eager function: which gradients come back, broadcasting, seeds, offsets, empty sizes, saved tensors."""

from __future__ import annotations

import itertools

import pytest
import torch

import mmkernels as mmk
from mmkernels.ops.attention import front
from mmkernels.ops.attention.lowered import Lowered
from tests.torch.samples import BACKENDS, tensors

EPS = torch.finfo(torch.float32).eps
SHAPES = ((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6), (1, 4, 5, 7))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=64 * EPS, atol=64 * EPS * theirs.abs().max().item())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [w for w in itertools.product([False, True], repeat=4) if any(w)])
def test_any_subset_of_gradients(wanted, backend):
    everything = tensors(*SHAPES, grad=True)
    whole = torch.autograd.grad(mmk.attention(*everything[:3], bias=everything[3], backend=backend).sum(), everything)
    leaves = [t.requires_grad_(w) for t, w in zip(tensors(*SHAPES), wanted, strict=True)]
    mmk.attention(*leaves[:3], bias=leaves[3], backend=backend).sum().backward()
    for leaf, grad, want in zip(leaves, whole, wanted, strict=True):
        assert (leaf.grad is not None) == want
        if want:
            assert torch.equal(leaf.grad, grad)


@pytest.mark.parametrize("wanted", [w for w in itertools.product([False, True], repeat=3) if any(w)])
def test_any_subset_of_gradients_the_short_way(wanted):
    everything = tensors(*SHAPES[:3], grad=True)
    whole = torch.autograd.grad(mmk.attention(*everything).sum(), everything)
    leaves = [t.requires_grad_(w) for t, w in zip(tensors(*SHAPES[:3]), wanted, strict=True)]
    mmk.attention(*leaves).sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == list(wanted)
    for leaf, grad in zip(leaves, whole, strict=True):
        assert leaf.grad is None or torch.equal(leaf.grad, grad)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("return_lse", [False, True])
def test_short_and_long_way_have_the_same_bits(backend, return_lse):
    found = []
    for function in (
        lambda *x: mmk.attention(*x, scale=0.3, return_lse=return_lse, backend=backend),
        lambda q, k, v: front.result(front.run(Lowered(q, [k], [v], scale=0.3), backend, return_lse), return_lse),
    ):
        leaves = tensors(*SHAPES[:3], grad=True)
        result = function(*leaves)
        outputs = result if return_lse else (result,)
        found.append((*outputs, *torch.autograd.grad(sum(o.sin().sum() for o in outputs), leaves)))
    for short, long in zip(*found, strict=True):
        assert torch.equal(short, long)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_of_one_broadcast_and_their_gradients_are_summed(backend):
    for batches in ((1, 3, 3), (3, 1, 1), (1, 1, 3), (3, 3, 1)):
        leaves = tensors(*((b, *s[1:]) for b, s in zip(batches, SHAPES, strict=False)), grad=True)
        out = mmk.attention(*leaves, backend=backend)
        expected = mmk.attention(*(x.expand(3, -1, -1, -1).contiguous() for x in leaves), backend=backend)
        assert out.shape == (3, 4, 5, 6)
        close(out, expected)
        assert backend == "reference" or torch.equal(out, expected)
        grads = torch.autograd.grad(out.sin().sum(), leaves)
        for ours, theirs in zip(grads, torch.autograd.grad(expected.sin().sum(), leaves), strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["none", "dense", "relative", "decomposed"])
@pytest.mark.parametrize("sizes", [s for s in itertools.product((0, 2), (0, 3), (0, 5), (0, 2)) if 0 in s])
def test_empty_sizes(sizes, kind, backend):
    """Zero queries, keys, batches or heads: shapes, zeros, and no gradient left unwritten."""
    batch, q_len, k_len, heads = sizes
    key_heads = max(heads, 1)
    leaves = tensors(
        (batch, 2 * heads, q_len, 8), (batch, key_heads, k_len, 8), (batch, key_heads, k_len, 6), grad=True
    )
    make, shapes = {
        "none": (lambda: None, []),
        "dense": (lambda b: b, [(1, 2 * heads, q_len, k_len)]),
        "relative": (mmk.RelativeBias, [(2 * heads, max(q_len + k_len - 1, 0))]),
        "decomposed": (mmk.DecomposedBias, [(1, 2 * heads, q_len, k_len), (1, 1, 1, 1)]),
    }[kind]
    parts = tensors(*shapes, grad=True)
    torch.use_deterministic_algorithms(True)  # which fills new memory with NaN
    try:
        out, lse = mmk.attention(*leaves, bias=make(*parts), return_lse=True, backend=backend)
        grads = torch.autograd.grad(out.sum(), [*leaves, *parts])
    finally:
        torch.use_deterministic_algorithms(False)
    assert out.shape == (batch, 2 * heads, q_len, 6) and lse.shape == (batch, 2 * heads, q_len)
    assert (out == 0).all() and (lse == -torch.inf).all()
    assert all((grad == 0).all() for grad in grads)


def test_seeds():
    operands = tensors((2, 4, 5, 8), (2, 4, 64, 8), (2, 4, 64, 8))

    def run(seed):
        return mmk.attention(*operands, dropout_p=0.5, seed=seed)

    torch.manual_seed(4)
    drawn, again = run(None), run(None)
    torch.manual_seed(4)
    assert torch.equal(run(None), drawn) and not torch.equal(drawn, again)
    state = torch.get_rng_state()
    assert torch.equal(run(7), run(torch.tensor(7))) and not torch.equal(run(7), run(8))
    assert torch.equal(run(2**64 - 1), run(-1)) and not torch.equal(run(7), run(7 + 2**32))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dropout_offsets_make_a_shard_of_the_whole(axis):
    query, key, value = tensors((4, 4, 6, 8), (4, 4, 9, 8), (4, 4, 9, 8))
    whole = mmk.attention(query, key, value, dropout_p=0.4, seed=3)
    offsets = [0, 0, 0, 0]
    offsets[axis] = 2
    parts = [x.narrow(axis, 2, x.shape[axis] - 2) if axis < 2 or x is query else x for x in (query, key, value)]
    shard = mmk.attention(*parts, dropout_p=0.4, seed=3, dropout_offsets=offsets)
    close(shard, whole.narrow(axis, 2, whole.shape[axis] - 2))


def test_changing_a_saved_tensor_in_place_is_noticed():
    for options in ({}, {"mask": torch.rand(5, 7) > 0.5, "bias": torch.randn(5, 7)}):
        query, key, value = tensors(*SHAPES[:3], grad=True)
        out = mmk.attention(query, key.clone() if options else key, value, **options)
        changed = options["bias"] if options else out
        with torch.no_grad():
            changed.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_return_lse_without_a_gradient_for_it():
    leaves = tensors(*SHAPES[:3], grad=True)
    out, lse = mmk.attention(*leaves, return_lse=True)
    only_lse = torch.autograd.grad(lse.sum(), leaves, retain_graph=True)
    assert (only_lse[2] == 0).all() and only_lse[0].abs().max() > 0
    only_out = torch.autograd.grad(out.sum(), leaves)
    plain = torch.autograd.grad(mmk.attention(*leaves).sum(), leaves)
    for ours, theirs in zip(only_out, plain, strict=True):
        assert torch.equal(ours, theirs)


def test_inference_mode_and_no_grad():
    leaves = tensors(*SHAPES[:3], grad=True)
    with torch.no_grad():
        plain = mmk.attention(*leaves, mask=mmk.Mask.causal())
    with torch.inference_mode():
        inference = mmk.attention(*leaves, mask=mmk.Mask.causal())
    assert not plain.requires_grad and inference.is_inference() and torch.equal(plain, inference)
