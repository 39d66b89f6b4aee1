"""make_fx, fake tensors, activation checkpointing: what sees the call through torch's modes and hooks."""

from __future__ import annotations

import functools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import mmkernels as mmk
from mmkernels.ops.attention import cpu, reference
from tests.torch.samples import tensors

SHAPES = ((2, 4, 6, 8), (2, 2, 7, 8), (2, 2, 7, 8))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint_recomputes_the_same_dropout(use_reentrant):
    def function(query, key, value):
        return mmk.attention(query, key, value, dropout_p=0.4, mask=mmk.Mask.causal()).sin()

    found = []
    for run in (function, lambda *leaves: checkpoint(function, *leaves, use_reentrant=use_reentrant)):
        leaves = tensors(*SHAPES, grad=True)
        torch.manual_seed(3)
        out = run(*leaves)
        out.sum().backward()
        found.append((out, *(leaf.grad for leaf in leaves)))
    for direct, recomputed in zip(*found, strict=True):
        assert torch.equal(direct, recomputed)


def test_make_fx_records_both_ops():
    def function(query, key, value):
        query = query.detach().requires_grad_()
        out = mmk.attention(query, key, value, mask=mmk.Mask.causal())
        return out, torch.autograd.grad(out.sin().sum(), query)[0]

    operands = tensors(*SHAPES)
    graph = make_fx(function)(*operands)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("mmkernels.attention_forward.default") == 1
    assert targets.count("mmkernels.attention_backward.default") == 1
    others = tensors(*SHAPES, seed=5)
    for traced, eager in zip(graph(*others), function(*others), strict=True):
        assert torch.equal(traced, eager)


def test_fake_tensors_compute_nothing():
    with FakeTensorMode():
        query, key, value = (torch.empty(shape, requires_grad=True) for shape in SHAPES)
        out, lse = mmk.attention(query, key, value, return_lse=True)
        (out.sum() + lse.sum()).backward()
    assert out.shape == SHAPES[0] and lse.shape == SHAPES[0][:3] and lse.dtype == torch.float32
    assert type(out).__name__ == "FakeTensor"
    assert query.grad.shape == query.shape and value.grad.shape == value.shape


def test_tensor_subclass_goes_through_the_op():
    seen = []

    class Watching(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return super().__torch_function__(function, types, args, kwargs or {})

    query, key, value = tensors(*SHAPES)
    out = mmk.attention(query.as_subclass(Watching), key, value)
    assert any("attention_forward" in name for name in seen)
    assert torch.equal(out.as_subclass(torch.Tensor), mmk.attention(query, key, value))


def test_selective_checkpoint_can_keep_attention(monkeypatch):
    runs = []
    for module in (cpu, reference):
        original = module.forward
        monkeypatch.setattr(module, "forward", lambda *args, _original=original: runs.append(1) or _original(*args))
    operator = torch.ops.mmkernels.attention_forward.default

    def function(query, key, value):
        return mmk.attention(query, key, value, mask=mmk.Mask.causal()).sin()

    leaves = tensors(*SHAPES, grad=True)
    keep = functools.partial(create_selective_checkpoint_contexts, [operator])
    checkpoint(function, *leaves, use_reentrant=False, context_fn=keep).sum().backward()
    assert len(runs) == 1
    checkpoint(function, *leaves, use_reentrant=False).sum().backward()
    assert len(runs) == 3
