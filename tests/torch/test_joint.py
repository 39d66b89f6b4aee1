"""joint_attention against one call on concatenated segments: values, lse, gradients, masks, biases, dropout bits."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from tests.torch.samples import tensors

EPS = torch.finfo(torch.float32).eps
Q_LENS, K_LENS = (3, 0, 5), (4, 6)
LQ, LK = sum(Q_LENS), sum(K_LENS)


def make(grad=True):
    queries = tensors(*((2, 4, n, 8) for n in Q_LENS), grad=grad)
    keys = tensors((1, 2, K_LENS[0], 8), (2, 2, K_LENS[1], 8), seed=1, grad=grad)
    values = tensors((1, 2, K_LENS[0], 6), (2, 2, K_LENS[1], 6), seed=2, grad=grad)
    return queries, keys, values


def concatenated(segments):
    return torch.cat([s.expand(2, -1, -1, -1) for s in segments], 2)


def check(bias=None, make_bias=None, **options):
    operands, extra = make(), [] if bias is None else [b.clone().requires_grad_() for b in bias]
    leaves = [t for part in operands for t in part] + extra
    bias_of = (lambda: None) if make_bias is None else lambda: make_bias(*extra)
    outs, lses = mmk.joint_attention(*operands, bias=bias_of(), return_lse=True, **options)
    assert [o.shape for o in outs] == [(2, 4, n, 6) for n in Q_LENS]
    # Keys stay a list: masks may be given per segment.
    query = concatenated(operands[0])
    whole, whole_lse = mmk.attention(query, *operands[1:], bias=bias_of(), return_lse=True, **options)
    found, expected = (torch.cat(outs, 2), torch.cat(lses, 2)), (whole, whole_lse)
    upstream = torch.linspace(-1, 1, whole.numel()).view_as(whole)

    def grads(out, lse):
        finite = torch.where(lse.isfinite(), lse, 0.0)
        return torch.autograd.grad((out * upstream).sum() + finite.sin().sum(), leaves)

    for ours, theirs in zip((*found, *grads(*found)), (*expected, *grads(*expected)), strict=True):
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        ours, theirs = (torch.where(x.isfinite(), x, 0.0) for x in (ours, theirs))
        scale = theirs.abs().max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(ours, theirs, rtol=64 * EPS, atol=64 * EPS * scale)


def test_no_mask():
    check(softcap=2.0, scale=0.3)


@pytest.mark.parametrize(
    "mask",
    [
        mmk.Mask.causal(),
        mmk.Mask.causal("bottom_right"),
        mmk.Mask.window(2, 3),
        mmk.Mask.key_lengths([torch.tensor([0, 4]), torch.tensor([3, 0])]),
        mmk.Mask.key_lengths(torch.tensor([2, 10]), empty_rows="unmask") & mmk.Mask.window(1, 0, "bottom_right"),
        mmk.Mask.dense(torch.rand(2, 1, LQ, LK, generator=torch.Generator().manual_seed(1)) > 0.6),
        mmk.Mask.dense(torch.rand(1, 4, 1, LK, generator=torch.Generator().manual_seed(2)) > 0.6),
        mmk.Mask.segments([None, mmk.Mask.causal()]),
    ],
    ids=lambda mask: mask.kind,
)
def test_masks_index_the_concatenated_axes(mask):
    check(mask=mask)


@pytest.mark.parametrize("shape", [(2, 4, LQ, LK), (4, 1, LK), (LQ, 1)])
def test_dense_bias(shape):
    check(bias=tensors(shape, seed=3), make_bias=lambda b: b)


def test_relative_bias():
    check(bias=tensors((4, LQ + LK - 1), seed=3), make_bias=mmk.RelativeBias)


def test_decomposed_bias():
    check(bias=tensors((2, 4, LQ, 5), (1, 4, 1, 2), seed=3), make_bias=mmk.DecomposedBias)


def test_dropout_bits_are_those_of_the_concatenation():
    check(dropout_p=0.4, seed=9, dropout_offsets=(1, 2, 3, 4))


def test_batch_one_query_and_other_sizes():
    queries, keys, values = make(grad=False)
    (image,) = tensors((1, 4, 2, 8), seed=5)
    outs = mmk.joint_attention([image, queries[2]], keys, values)
    assert [o.shape for o in outs] == [(2, 4, 2, 6), (2, 4, 5, 6)]
    torch.testing.assert_close(outs[0], mmk.attention(image, concatenated(keys), concatenated(values)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": torch.zeros(2, 4, 3, 8)}, TypeError, "queries must be a list"),
        ({"keys": torch.zeros(2, 2, 3, 8)}, TypeError, "keys must be a list"),
        ({"queries": []}, ValueError, "queries is an empty list"),
        ({"queries": [torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 3, 8)]}, ValueError, r"queries\[1\] has shape"),
        ({"queries": [torch.zeros(2, 4, 3, 8), torch.zeros(3, 4, 3, 8)]}, ValueError, r"keys\[1\] .* batch of 3"),
        ({"queries": [torch.zeros(2, 4, 3, 8), torch.zeros(2, 4, 3, 8).half()]}, TypeError, r"queries\[1\] has dtype"),
        ({"queries": [torch.zeros(2, 3, 3, 8)]}, ValueError, r"queries\[0\] has 3 heads .* heads of keys\[0\]"),
        ({"values": [torch.zeros(2, 2, 4, 6)]}, ValueError, "values has 1 segments, expected 2, .* of keys"),
        ({"keys": [torch.zeros(2, 2, 4, 9)] * 2}, ValueError, r"keys\[0\] has shape .* queries\[0\]'s head dimension"),
        ({"keys": [torch.zeros(2, 2, 4, 8).half()] * 2}, TypeError, r"keys\[0\] has dtype .* queries\[0\]'s"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = dict(zip(("queries", "keys", "values"), make(grad=False))) | change
    with pytest.raises(error, match=message):
        mmk.joint_attention(**arguments)
