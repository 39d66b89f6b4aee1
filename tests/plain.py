"""Attention in plain torch, written without any of the product's operators: the fp64 reference and the naive path.

A call is expanded to dense planes, one per sequence: (B, Hq, Lq, D) operands, a bool mask, a dense bias. torch's own
autograd gives the gradients. Masks are expanded by `Mask.to_dense`, which tests/masks holds to a brute force, and
dropout bits come from `mmkernels.philox`, which tests/core holds to published vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from mmkernels.philox import dropout_keep
from tests.plane import INF, Plane


def cotangents(inputs: Inputs, seed: int = 0) -> dict[str, Tensor]:
    """Random gradients of every output of a call: "out" in its dtype, "lse" in fp32."""
    random = torch.Generator().manual_seed(seed + 77)
    found = {}
    for name, shape in _output_shapes(inputs).items():
        dtype = inputs.dtype if name.startswith("out") else lse_dtype(inputs.dtype)
        found[name] = torch.randn(shape, generator=random).to(dtype)
    return found


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def run(inputs: Inputs, backend: str | None, d_outputs: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The product's outputs and, where cotangents are given, its gradients ("grad query 0", ...)."""
    if d_outputs is None:
        return inputs.run(backend)
    leaves = {name: view_with_gradient(tensor) for name, tensor in inputs.leaves().items()}
    outputs = inputs.replaced(leaves).run(backend)
    names = [name for name in outputs if name in d_outputs]
    grads = torch.autograd.grad([outputs[n] for n in names], list(leaves.values()), [d_outputs[n] for n in names])
    found = {name: tensor.detach() for name, tensor in outputs.items()}
    return found | {f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}


def view_with_gradient(tensor: Tensor) -> Tensor:
    """A leaf over the same memory with the same strides."""
    return tensor.detach().requires_grad_()


def _widen(inputs: Inputs, name: str, tensor: Tensor) -> Tensor:
    """A leaf in fp64; a bias of fp16's least number stands for the least there is, as it does in fp16 arithmetic."""
    wide = tensor.detach().double()
    if name.startswith("bias") and tensor.dtype == torch.float16 and not isinstance(inputs.bias, mmk.DecomposedBias):
        wide[wide == torch.finfo(torch.float16).min] = torch.finfo(torch.float32).min
    return wide


def evaluate(
    inputs: Inputs, d_outputs: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The same results as `run`, in plain torch computed in `dtype`; in fp64 also `Plane.terms` of each result."""
    terms = dtype == torch.float64
    leaves = {name: _widen(inputs, name, tensor).to(dtype).requires_grad_() for name, tensor in inputs.leaves().items()}
    planes = _planes(inputs.replaced(leaves))
    outputs = _outputs(inputs, [plane.attend() for plane in planes])
    # lse of an empty row has no gradient, whatever the cotangent says.
    ends = [_masked_cotangent(outputs[name], d_outputs[name]) for name in outputs]
    grads = torch.autograd.grad(
        list(outputs.values()), list(leaves.values()), ends, allow_unused=True, retain_graph=terms
    )
    found = {name: output.detach() for name, output in outputs.items()}
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        found[f"grad {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return found, *(_terms(inputs, planes, leaves, d_outputs) if terms else ({}, {}))


def _masked_cotangent(output: Tensor, d_output: Tensor) -> Tensor:
    return torch.where(output.detach() == -INF, 0.0, d_output.to(output.dtype))


def _terms(
    inputs: Inputs, planes: list[Plane], leaves: Mapping[str, Tensor], d_outputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    d_planes = _split_outputs(inputs, d_outputs)
    both = [plane.terms(*ends) for plane, ends in zip(planes, d_planes, strict=True)]
    terms, inner = (_pulled_back(inputs, planes, leaves, [pair[i] for pair in both]) for i in range(2))
    return terms, inner


def _pulled_back(
    inputs: Inputs, planes: list[Plane], leaves: Mapping[str, Tensor], found: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Sums of planes as sums of the call's results and leaves."""
    sums = _outputs(inputs, [(plane["out"], plane["lse"]) for plane in found])
    ends, weights = [], []
    for plane, own in zip(planes, found, strict=True):
        for name in ("query", "key", "value", "bias"):
            tensor = getattr(plane, name)
            if tensor is not None and tensor.requires_grad:
                ends.append(tensor)
                weights.append(own[name].sum_to_size(tensor.shape) if name == "bias" else own[name])
    # The planes are linear in the leaves with coefficients 0 and 1: their transpose sums absolute terms as well.
    pulled = (
        torch.autograd.grad(ends, list(leaves.values()), weights, allow_unused=True, retain_graph=True) if ends else ()
    )
    for (name, leaf), pull in zip(leaves.items(), pulled, strict=True):
        sums[f"grad {name}"] = torch.zeros_like(leaf) if pull is None else pull
    return sums


# ---- from calls to planes ----


def _planes(inputs: Inputs) -> list[Plane]:
    if inputs.function == "varlen":
        return _varlen_planes(inputs)
    query = torch.cat(_one_batch(inputs.queries), 2) if len(inputs.queries) > 1 else inputs.queries[0]
    keys, values = torch.cat(_one_batch(inputs.keys), 2), torch.cat(_one_batch(inputs.values), 2)
    batch = max(x.shape[0] for x in (query, keys, values)) if 0 not in (query.shape[0], keys.shape[0]) else 0
    mask = inputs.mask or mmk.Mask.window(None, None)
    k_lens = [key.shape[2] for key in inputs.keys]
    visible = mask.to_dense(batch, query.shape[1], query.shape[2], k_lens)
    bias = _dense_bias(inputs.bias, query.shape[2], keys.shape[2], query.shape[2])
    return [_plane(inputs, query, keys, values, visible, bias, batch, 0)]


def _varlen_planes(inputs: Inputs) -> list[Plane]:
    q_cuts, k_cuts = (cuts.tolist() for cuts in (inputs.cu_seqlens_q, inputs.cu_seqlens_k))
    q_lens, k_lens = ([b - a for a, b in pairwise(cuts)] for cuts in (q_cuts, k_cuts))
    planes = []
    for n, (q_len, k_len) in enumerate(zip(q_lens, k_lens, strict=True)):
        query, key, value = (
            x[0].narrow(0, cuts[n], length).transpose(0, 1)[None]
            for x, cuts, length in (
                (inputs.queries, q_cuts, q_len), (inputs.keys, k_cuts, k_len), (inputs.values, k_cuts, k_len)
            )
        )  # fmt: skip
        visible = _mask_of_sequence(inputs.mask, n, len(q_lens), query.shape[1], q_len, k_len, max(q_lens), max(k_lens))
        bias = _dense_bias(inputs.bias, q_len, k_len, max(q_lens))
        if bias is not None:
            bias = bias[n : n + 1] if bias.shape[0] > 1 else bias
            bias = bias[:, :, : q_len if bias.shape[2] > 1 else 1, : k_len if bias.shape[3] > 1 else 1]
        planes.append(_plane(inputs, query, key, value, visible, bias, 1, n))
    return planes


def _mask_of_sequence(
    mask: mmk.Mask | None, n: int, count: int, heads: int, q_len: int, k_len: int, max_q: int, max_k: int
) -> Tensor:
    """The mask of sequence n: made for all sequences if it has a batch axis, then cut to the lengths of this one."""
    if mask is None:
        return torch.ones(1, heads, q_len, k_len, dtype=torch.bool)
    if mask.has_dense:
        return mask.to_dense(count, heads, max_q, max_k)[n : n + 1, :, :q_len, :k_len]
    return mask.to_dense(count, heads, q_len, k_len)[n : n + 1]


def _plane(
    inputs: Inputs, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, bias: Tensor | None, batch: int, n: int
) -> Plane:
    group = query.shape[1] // key.shape[1]
    query, key, value = (x.expand(batch, -1, -1, -1) for x in (query, key, value))
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    if bias is not None:
        visible = visible & (bias != -INF)
    options = dict(inputs.options)
    keep, p = None, options.get("dropout_p", 0.0)
    if p:
        seed = torch.as_tensor(options["seed"], dtype=torch.int64)
        shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        offsets = list(options.get("dropout_offsets", (0, 0, 0, 0)))
        offsets[0] += n
        kept = dropout_keep(seed, p, *shape, offsets)
        keep = kept.double() * (1.0 / (1.0 - p) if p < 1 else 0.0)
    scale = options.get("scale")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return Plane(query, key, value, bias, visible, keep, scale, options.get("softcap") or 0.0)


def _one_batch(tensors: list[Tensor]) -> list[Tensor]:
    batch = max(tensor.shape[0] for tensor in tensors) if all(tensor.shape[0] for tensor in tensors) else 0
    return [tensor.expand(batch, -1, -1, -1) for tensor in tensors]


def _dense_bias(
    bias: Tensor | mmk.RelativeBias | mmk.DecomposedBias | None, q_len: int, k_len: int, zero: int
) -> Tensor | None:
    """Dense, four axes; `zero` - 1 is the entry of a relative table at key == query."""
    if bias is None:
        return None
    if isinstance(bias, mmk.RelativeBias):
        distance = torch.arange(k_len)[None, :] - torch.arange(q_len)[:, None]
        return bias.table[:, distance + zero - 1][None]
    if isinstance(bias, mmk.DecomposedBias):
        return (bias.rel_h[..., :, None] + bias.rel_w[..., None, :]).flatten(-2)
    return bias[(None,) * (4 - bias.dim())]


def _outputs(inputs: Inputs, planes: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    if inputs.function == "varlen":
        out = torch.cat([out[0].transpose(0, 1) for out, _ in planes])
        return {"out": out, "lse": torch.cat([lse[0] for _, lse in planes], 1)}
    out, lse = planes[0]
    if inputs.function != "joint":
        return {"out": out, "lse": lse}
    cuts = [query.shape[2] for query in inputs.queries]
    found = {f"out {index}": piece for index, piece in enumerate(out.split(cuts, 2))}
    return found | {f"lse {index}": piece for index, piece in enumerate(lse.split(cuts, 2))}


def _split_outputs(inputs: Inputs, named: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The way back from `_outputs`, in fp64."""
    out = [tensor.double() for name, tensor in named.items() if name.startswith("out")]
    lse = [tensor.double() for name, tensor in named.items() if name.startswith("lse")]
    if inputs.function != "varlen":
        return [(torch.cat(out, 2), torch.cat(lse, 2))]
    lens = inputs.cu_seqlens_q.diff().tolist()
    pieces = zip(out[0].split(lens), lse[0].split(lens, 1), strict=True)
    return [(a.transpose(0, 1)[None], b[None]) for a, b in pieces]


def _output_shapes(inputs: Inputs) -> dict[str, tuple[int, ...]]:
    dim_v = inputs.values[0].shape[-1]
    if inputs.function == "varlen":
        tokens, heads, _ = inputs.queries[0].shape
        return {"out": (tokens, heads, dim_v), "lse": (heads, tokens)}
    batches = [x.shape[0] for x in (*inputs.queries, *inputs.keys, *inputs.values)]
    batch = max(batches) if all(batches) else 0
    if inputs.function != "joint":
        _, heads, rows, _ = inputs.queries[0].shape
        return {"out": (batch, heads, rows, dim_v), "lse": (batch, heads, rows)}
    found = {f"out {i}": (batch, *query.shape[1:3], dim_v) for i, query in enumerate(inputs.queries)}
    return found | {f"lse {i}": (batch, *query.shape[1:3]) for i, query in enumerate(inputs.queries)}
