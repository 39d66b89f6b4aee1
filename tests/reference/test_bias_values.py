"""Relative and decomposed biases: their meaning, their lowering, their life as pytrees."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from mmkernels.bias import (
    BIAS_DECOMPOSED,
    BIAS_DENSE,
    BIAS_NONE,
    BIAS_RELATIVE,
    DecomposedBias,
    RelativeBias,
    lower_bias,
)

SHAPE = {"batch": 2, "heads": 3, "q_len": 4, "k_len": 6}


def relative(heads: int = 3, entries: int = 9) -> RelativeBias:
    return RelativeBias(torch.randn(heads, entries))


def decomposed(kh: int = 2, kw: int = 3) -> DecomposedBias:
    return DecomposedBias(torch.randn(2, 3, 4, kh), torch.randn(2, 1, 4, kw))


def test_relative_is_key_minus_query():
    bias = relative()
    dense = bias.to_dense(4, 6)
    assert dense.shape == (1, 3, 4, 6)
    for h, i, j in torch.cartesian_prod(*map(torch.arange, dense.shape[1:])).tolist():
        assert dense[0, h, i, j] == bias.table[h, j - i + 4 - 1]


def test_decomposed_is_a_grid_of_keys():
    bias = decomposed()
    dense = bias.to_dense()
    assert dense.shape == (2, 3, 4, 6)
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, dense.shape)).tolist():
        assert dense[b, h, i, j] == bias.rel_h[b, h, i, j // 3] + bias.rel_w[b, 0, i, j % 3]


def test_lowering():
    assert lower_bias(None, **SHAPE) == ([], BIAS_NONE, 0)
    table = relative()
    tensors, kind, zero = lower_bias(table, **SHAPE)
    assert tensors[0] is table.table and (kind, zero) == (BIAS_RELATIVE, 3)
    factors = decomposed()
    tensors, kind, _ = lower_bias(factors, **SHAPE)
    assert tensors[0] is factors.rel_h and tensors[1] is factors.rel_w and kind == BIAS_DECOMPOSED
    for shape in [(), (6,), (4, 1), (3, 4, 6), (2, 1, 1, 6)]:
        tensors, kind, _ = lower_bias(torch.zeros(shape), **SHAPE)
        assert kind == BIAS_DENSE and tensors[0].shape == (1,) * (4 - len(shape)) + shape


@pytest.mark.parametrize(
    "bias, error, says",
    [
        (torch.zeros(5), ValueError, r"bias has shape \(1, 1, 1, 5\), expected \(B, Hq, Lq, Lk\) = \(2, 3, 4, 6\)"),
        (torch.zeros(1, 1, 1, 1, 6), ValueError, "at most the 4 axes"),
        (torch.zeros(6, dtype=torch.int32), TypeError, "bias must be a floating point tensor"),
        (torch.zeros(6, dtype=torch.bool), TypeError, "mask="),
        (1.0, TypeError, "got float"),
        (relative(entries=10), ValueError, r"bias.table has shape \(3, 10\), expected .* \(3, 9\)"),
        (relative(heads=2), ValueError, "bias.table"),
        (RelativeBias([1.0]), TypeError, "bias.table must be a tensor, got list"),
        (decomposed(kh=3), ValueError, "3 x 3 = 9 keys, but there are 6"),
        (DecomposedBias(torch.zeros(2, 2, 4, 2), torch.zeros(1, 1, 1, 3)), ValueError, "bias.rel_h"),
        (torch.zeros(6, device="meta"), ValueError, "bias is on meta, but query is on cpu"),
    ],
)
def test_wrong_bias(bias, error, says):
    with pytest.raises(error, match=says):
        lower_bias(bias, **SHAPE, device=torch.device("cpu"))


@pytest.mark.parametrize("bias", [relative(), decomposed()], ids=["relative", "decomposed"])
class TestPytree:
    def test_round_trip(self, bias):
        leaves, spec = pytree.tree_flatten(bias)
        back = pytree.tree_unflatten(leaves, pytree.treespec_loads(pytree.treespec_dumps(spec)))
        assert type(back) is type(bias)
        assert all(a is b for a, b in zip(pytree.tree_leaves(back), leaves))

    def test_exports_and_compiles(self, bias):
        def dense(value: RelativeBias | DecomposedBias) -> torch.Tensor:
            return value.to_dense(4, 6) if isinstance(value, RelativeBias) else value.to_dense()

        class Model(torch.nn.Module):
            def forward(self, value: RelativeBias | DecomposedBias) -> torch.Tensor:
                return dense(value)

        assert torch.equal(torch.export.export(Model(), (bias,)).module()(bias), dense(bias))
        assert torch.equal(torch.compile(dense, backend="aot_eager", fullgraph=True)(bias), dense(bias))

    def test_is_immutable(self, bias):
        with pytest.raises(AttributeError):
            bias.table = torch.zeros(1)
