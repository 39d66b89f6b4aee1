"""Every wrong argument raises before anything runs, and says which argument, what it is and what was expected."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from tests.torch.samples import needs_native

Q, K, V = torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 7, 8), torch.zeros(2, 2, 7, 6)
NESTED, JAGGED = (torch.nested.nested_tensor([K[0], K[1]], layout=kind) for kind in (torch.strided, torch.jagged))
ENDS = torch.tensor([0, 2, 5], dtype=torch.int32)


def z(*shape, **options):
    return torch.zeros(*shape, **options)


VALUES = {
    "query rank": ({"query": z(4, 5, 8)}, r"query has shape \(4, 5, 8\), expected 4 axes"),
    "key rank": ({"key": z(2, 7, 8)}, r"key has shape \(2, 7, 8\), expected 4 axes"),
    "value rank": ({"value": z(7, 6)}, r"value has shape \(7, 6\), expected 4 axes"),
    "head dim 0": ({"query": z(2, 4, 5, 0), "key": z(2, 2, 7, 0)}, "query .* head dimension from 1 to 512"),
    "head dim 513": ({"query": z(2, 4, 5, 513), "key": z(2, 2, 7, 513)}, "query .* head dimension from 1 to 512"),
    "value dim 513": ({"value": z(2, 2, 7, 513)}, "value .* head dimension from 1 to 512"),
    "key dim": ({"key": z(2, 2, 7, 9)}, r"key has shape \(2, 2, 7, 9\), expected query's head dimension 8"),
    "head multiple": ({"query": z(2, 5, 5, 8)}, "query has 5 heads .* multiple of the 2 heads of key"),
    "no key heads": ({"key": z(2, 0, 7, 8), "value": z(2, 0, 7, 6)}, "multiple of the 0 heads"),
    "value heads": ({"value": z(2, 4, 7, 6)}, "value has 4 heads .* expected 2"),
    "value length": ({"value": z(2, 2, 6, 6)}, r"value has shape .* expected the 7 tokens of key"),
    "batch": ({"key": z(3, 2, 7, 8)}, "batch of 2 or 1"),
    "value batch": ({"value": z(3, 2, 7, 6)}, "batch of 2 or 1"),
    "key device": ({"key": K.to("meta")}, "key is on meta, expected query's device cpu"),
    "no segments": ({"key": [], "value": []}, "key is an empty list"),
    "segment counts": ({"key": [K, K], "value": [V]}, "value has 1 segments, expected 2"),
    "segment length": ({"key": [K, K], "value": [V, z(2, 2, 3, 6)]}, r"value\[1\] has shape .* key\[1\]"),
    "segment heads": ({"key": [K, z(2, 4, 7, 8)], "value": [V, V]}, r"key\[1\] has 4 heads .* expected 2"),
    "segment value dim": ({"key": [K, K], "value": [V, z(2, 2, 7, 5)]}, r"value\[1\] .* head dimension of 6"),
    "segment batch": ({"key": [K, z(3, 2, 7, 8)], "value": [V, V]}, r"key\[1\] has shape .* batch of 2 or 1"),
    "mask shape": ({"mask": z(2, 1, 5, 6, dtype=torch.bool)}, "mask has shape"),
    "mask rank": ({"mask": z(1, 2, 1, 5, 7, dtype=torch.bool)}, "mask has shape"),
    "mask device": ({"mask": mmk.Mask.key_lengths(z(2, dtype=torch.int32, device="meta"))}, "mask is on meta"),
    "mask lengths": ({"mask": mmk.Mask.key_lengths(z(3, dtype=torch.int32))}, "lengths"),
    "bias shape": ({"bias": z(4, 5, 6)}, r"bias has shape \(1, 4, 5, 6\), expected .*\(2, 4, 5, 7\)"),
    "bias rank": ({"bias": z(1, 2, 4, 5, 7)}, "bias has shape"),
    "bias device": ({"bias": z(5, 7, device="meta")}, "bias is on meta"),
    "table shape": ({"bias": mmk.RelativeBias(z(4, 12))}, r"bias.table has shape \(4, 12\), expected .*\(4, 11\)"),
    "grid": ({"bias": mmk.DecomposedBias(z(2, 4, 5, 2), z(2, 4, 5, 3))}, "2 x 3 = 6 keys, but there are 7 keys"),
    "scale nan": ({"scale": float("nan")}, "scale must be finite, got nan"),
    "scale inf": ({"scale": float("inf")}, "scale must be finite, got inf"),
    "softcap 0": ({"softcap": 0.0}, "softcap must be above 0 .* got 0.0"),
    "softcap negative": ({"softcap": -1}, "softcap must be above 0"),
    "dropout above": ({"dropout_p": 1.5}, r"dropout_p must be in \[0, 1\], got 1.5"),
    "dropout below": ({"dropout_p": -0.1}, r"dropout_p must be in \[0, 1\]"),
    "dropout nan": ({"dropout_p": float("nan")}, "dropout_p must be finite"),
    "seed size": ({"dropout_p": 0.5, "seed": z(2, dtype=torch.int64)}, r"seed has shape \(2,\), expected one element"),
    "seed bits": ({"dropout_p": 0.5, "seed": 2**64}, "seed must fit in 64 bits"),
    "seed device": ({"dropout_p": 0.5, "seed": z((), dtype=torch.int64, device="meta")}, "seed is on meta"),
    "unused seed": ({"seed": -(2**63) - 1}, "seed must fit in 64 bits"),
    "offsets count": ({"dropout_offsets": (0, 0, 0)}, "dropout_offsets must be four ints .* got 3 values"),
    "offsets negative": ({"dropout_offsets": (0, 0, 0, -1)}, r"dropout_offsets must be in \[0, 2\*\*32\)"),
    "backend name": ({"backend": "gpu"}, "backend must be None or one of .* got 'gpu'"),
    "backend cuda": ({"backend": "cuda"}, "backend='cuda' cannot run .* the tensors are on cpu, not on a GPU"),
    "backend cpu": ({"query": Q.double(), "key": K.double(), "value": V.double(), "backend": "cpu"}, "float64"),
}
TYPES = {
    "query": ({"query": None}, "query must be a tensor, got NoneType"),
    "key": ({"key": 3}, "key must be a tensor or a list of tensors"),
    "value": ({"value": "v"}, "value must be a tensor or a list of tensors"),
    "segment": ({"key": [K, None], "value": [V, V]}, r"key\[1\] must be a tensor, got NoneType"),
    "query dtype": ({"query": Q.long()}, "query has dtype torch.int64"),
    "key dtype": ({"key": K.half()}, "key has dtype torch.float16, expected query's torch.float32"),
    "segment dtype": ({"key": [K, K.double()], "value": [V, V]}, r"key\[1\] has dtype torch.float64"),
    "sparse": ({"query": Q.to_sparse()}, "query has layout torch.sparse_coo"),
    "nested query": ({"query": NESTED}, "query is a nested tensor: pack it for attention_varlen"),
    "nested key": ({"key": NESTED}, "key is a nested tensor"),
    "jagged value": ({"value": JAGGED}, "value is a nested tensor"),
    "mask": ({"mask": "causal"}, "mask must be None, a Mask or a bool tensor, got str"),
    "mask dtype": ({"mask": z(5, 7)}, "mask must be a bool tensor, got dtype torch.float32"),
    "bias": ({"bias": 1.0}, "bias must be a float tensor, RelativeBias, DecomposedBias or None, got float"),
    "bias dtype": ({"bias": z(5, 7, dtype=torch.bool)}, "bias must be a floating point tensor"),
    "sparse bias": ({"bias": z(5, 7).to_sparse()}, "bias has layout torch.sparse_coo"),
    "sparse table": ({"bias": mmk.RelativeBias(z(4, 11).to_sparse())}, "bias.table has layout torch.sparse_coo"),
    "sparse mask": ({"mask": z(5, 7, dtype=torch.bool).to_sparse()}, "mask has layout torch.sparse_coo"),
    "scale": ({"scale": "1"}, "scale must be a number, got str"),
    "scale tensor": ({"scale": torch.tensor(1.0)}, "scale must be a number, got Tensor"),
    "scale bool": ({"scale": True}, "scale must be a number, got bool"),
    "softcap": ({"softcap": [1.0]}, "softcap must be a number, got list"),
    "dropout": ({"dropout_p": None}, "dropout_p must be a number, got NoneType"),
    "seed": ({"dropout_p": 0.5, "seed": 1.0}, "seed must be None, an int or an int64 tensor, got float"),
    "seed dtype": ({"dropout_p": 0.5, "seed": z((), dtype=torch.int32)}, "seed has dtype torch.int32"),
    "offsets": ({"dropout_offsets": 3}, "dropout_offsets must be four ints"),
    "offset": ({"dropout_offsets": (0, 0, 0.5, 0)}, "dropout_offsets must be four ints"),
    "backend": ({"backend": 1}, "backend must be None or one of"),
    "backend list": ({"backend": ["cpu"]}, "backend must be None or one of"),
}


@pytest.mark.parametrize("name", VALUES)
def test_wrong_value(name):
    change, message = VALUES[name]
    with pytest.raises(ValueError, match=message):
        mmk.attention(**({"query": Q, "key": K, "value": V} | change))


@pytest.mark.parametrize("name", TYPES)
def test_wrong_type(name):
    change, message = TYPES[name]
    with pytest.raises(TypeError, match=message):
        mmk.attention(**({"query": Q, "key": K, "value": V} | change))


PACKED = {"query": z(5, 4, 8), "key": z(5, 2, 8), "value": z(5, 2, 6), "cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS}
VARLEN = {
    "rank": ({"query": Q}, ValueError, "query has shape .* expected 3 axes"),
    "segments": ({"key": [PACKED["key"]]}, TypeError, "key must be a tensor, got list"),
    "tokens": ({"value": z(4, 2, 6)}, ValueError, "value has shape .* expected the 5 tokens of key"),
    "heads": ({"query": z(5, 3, 8)}, ValueError, "multiple of the 2 heads"),
    "ends": ({"cu_seqlens_q": [0, 5]}, TypeError, "cu_seqlens_q must be a tensor"),
    "ends dtype": ({"cu_seqlens_k": ENDS.float()}, TypeError, "cu_seqlens_k has dtype torch.float32"),
    "ends rank": ({"cu_seqlens_q": ENDS[None]}, ValueError, r"cu_seqlens_q has shape \(1, 3\)"),
    "ends device": ({"cu_seqlens_k": ENDS.to("meta")}, ValueError, "cu_seqlens_k is on meta"),
    "counts": ({"cu_seqlens_k": ENDS[:2]}, ValueError, r"cu_seqlens_k has shape \(2,\), expected .*\(3,\)"),
    "max type": ({"max_seqlen_q": 2.0}, TypeError, "max_seqlen_q must be an int or None, got float"),
    "max value": ({"max_seqlen_k": -1}, ValueError, "max_seqlen_k must not be negative"),
    "max too small": (
        {"max_seqlen_q": 1, "bias": z(1, 4, 1, 3)},
        ValueError,
        "max_seqlen_q is 1, expected at least the 3 tokens",
    ),
    "max too small for a mask": (
        {"max_seqlen_k": 2, "mask": z(2, 1, 3, 2, dtype=torch.bool)},
        ValueError,
        "max_seqlen_k is 2, expected at least the 3 tokens",
    ),
    "bias": ({"bias": z(2, 4, 2, 3)}, ValueError, r"bias has shape .* expected .*\(2, 4, 3, 3\)"),
    "table": ({"bias": mmk.RelativeBias(z(4, 6))}, ValueError, r"bias.table has shape \(4, 6\), expected .*\(4, 5\)"),
    "mask": ({"mask": mmk.Mask.key_lengths(z(3, dtype=torch.int32))}, ValueError, "lengths"),
    "seed": ({"seed": "x"}, TypeError, "seed must be None"),
    "backend": ({"backend": "triton"}, ValueError, "backend='triton' cannot run"),
}


@pytest.mark.parametrize("name", VARLEN)
def test_wrong_varlen_argument(name):
    change, error, message = VARLEN[name]
    with pytest.raises(error, match=message):
        mmk.attention_varlen(**(PACKED | change))


def test_longest_lengths_are_needed_where_they_cannot_be_computed():
    packed = {name: tensor.to("meta") for name, tensor in PACKED.items()}
    with pytest.raises(ValueError, match="max_seqlen_q must be given with a bias"):
        mmk.attention_varlen(**packed, bias=mmk.RelativeBias(z(4, 5, device="meta")))
    with pytest.raises(ValueError, match="max_seqlen_k must be given with a dense mask"):
        mmk.attention_varlen(**packed, mask=z(2, 4, 3, 3, dtype=torch.bool, device="meta"), max_seqlen_q=3)


@needs_native
@pytest.mark.parametrize("ends", [[0, 6, 5], [1, 2, 5], [0, 2, 4], [0, 2, 6], [-1, 2, 5], [0, 2**32, 5]])
def test_the_cpu_op_checks_cumulative_lengths(ends):
    bad = torch.tensor(ends)
    with pytest.raises(ValueError, match=r"^cu_seqlens_q"):
        mmk.attention_varlen(**(PACKED | {"cu_seqlens_q": bad}), backend="cpu")


@needs_native
@pytest.mark.parametrize("stop", [8, -1])
def test_the_cpu_op_checks_intervals(stop):
    mask = mmk.Mask.intervals(torch.zeros(5, dtype=torch.int32), torch.full((5,), stop, dtype=torch.int32))
    with pytest.raises(ValueError, match=f"stop is {stop}"):
        mmk.attention(Q, K, V, mask=mask, backend="cpu")


@needs_native
def test_the_cpu_op_checks_the_dtype_of_the_output_gradient():
    query = torch.randn(1, 1, 3, 8).bfloat16()
    out, lse = mmk.attention(query, query, query, return_lse=True, backend="cpu")
    arguments = (query, query, query, 0.5, out, lse, torch.empty_like(query), None, None)
    with pytest.raises(RuntimeError, match="grad_out has another dtype than query"):
        torch.ops.mmkernels_cpu.attention_backward_plain(out.float(), *arguments)
