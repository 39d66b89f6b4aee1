"""What attention is held to: fp64 on a slice of the call.

The whole of a large case would take minutes in fp64, so a slice is compared: the query heads of the first key head;
of the batch the first entry where entries do not share a gradient; and of forward passes without a mask the first rows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import mmkernels as mmk
from bench.accuracy import Reference, Slicer
from bench.attention.call import Call
from bench.attention.inputs import Bias, Inputs

ROWS = 256
MOST_PAIRS = 6_000_000
"""Of a slice; beyond that only rows are compared, and not the gradients of keys and values, which need them all."""


def reference(call: Call) -> Reference:
    """Computes the slice in fp64."""
    from tests.plain import lse_dtype
    from tests.tolerance import Expectation, tolerance

    inputs, slicer, names = _slice(call)
    shape = {
        "varlen": lambda x: x.shape[:2][::-1],
        "attention": lambda x: x.shape[:3],
    }
    grads = [slicer(f"out {n}" if len(call.grads) > 1 else "out", grad) for n, grad in enumerate(call.grads)]
    out = grads[0] if grads else torch.zeros(_out_shape(inputs), dtype=inputs.dtype)
    assert out is not None
    cotangents = {"out": out, "lse": torch.zeros(shape[inputs.function](out), dtype=lse_dtype(inputs.dtype))}
    found = Expectation(inputs, cotangents=cotangents)
    expected, bounds = {}, {}
    for ours, theirs in names.items():
        precision = call.dtype
        leaf = inputs.leaves().get(theirs.removeprefix("grad "))
        dtype = call.dtype if leaf is None else leaf.dtype
        if torch.finfo(dtype).eps > torch.finfo(precision).eps:
            precision = dtype
        expected[ours] = found.reference[theirs]
        naive = found.naive[theirs].to(dtype)
        bounds[ours] = tolerance(
            dtype, found.reference[theirs], naive, found.terms[theirs], found.inner[theirs], precision
        )
    differ = "drops other elements than ours" if inputs.options.get("dropout_p") else None
    return Reference(expected, bounds, slicer, differ)


def _slice(call: Call) -> tuple[Inputs, Slicer, dict[str, str]]:
    """The sliced call, the same slice of its results, and its results by (our name, name in the sliced call)."""
    inputs = call.inputs.replaced({name: leaf.detach() for name, leaf in call.inputs.leaves().items()})
    axis = 1
    group = inputs.queries[0].shape[axis] // inputs.keys[0].shape[axis]
    pairs = group * sum(q.shape[-2] for q in inputs.queries) * sum(k.shape[-2] for k in inputs.keys)
    plain = inputs.mask is None and inputs.bias is None and inputs.function != "varlen"
    alike = len({x.shape[0] for x in (*inputs.queries, *inputs.keys, *inputs.values)}) == 1
    batches = 1 if plain and alike else None
    rows = None
    if plain and (not call.backward or pairs > MOST_PAIRS):
        rows = ROWS
    if inputs.function == "joint":
        assert rows is not None, "a joint case is compared by rows"

    def slicer(name: str, tensor: Tensor) -> Tensor | None:
        kind = name.removeprefix("grad ").split()[0]
        if kind == "bias":
            return _sliced_bias_tensor(inputs.bias, tensor, group)
        cut = tensor[:, : 1 if kind in ("key", "value") else group]
        if inputs.function == "varlen":
            return cut
        cut = cut[:batches]
        return cut[:, :, :rows] if kind in ("query", "out") else cut

    def of(kind: str, tensors: list[Tensor]) -> list[Tensor]:
        cut = [slicer(kind, tensor) for tensor in tensors]
        return [tensor for tensor in cut if tensor is not None]

    queries, keys, values = (
        of(kind, tensors)
        for kind, tensors in (("query", inputs.queries), ("key", inputs.keys), ("value", inputs.values))
    )
    names = {"out": "out"} if inputs.function != "joint" else {"out 0": "out"}
    if inputs.function == "joint":
        queries, keys, values = queries[:1], [torch.cat(keys, 2)], [torch.cat(values, 2)]
    if call.backward:
        names["grad query 0"] = "grad query 0"
        if rows is None:
            names |= {f"grad {name}": f"grad {name}" for name in inputs.leaves()}
    small = replace(
        inputs,
        function="attention" if inputs.function == "joint" else inputs.function,
        queries=queries, keys=keys, values=values, bias=_sliced_bias(inputs.bias, group),
    )  # fmt: skip
    return small, slicer, names


def _sliced_bias(bias: Bias | None, heads: int) -> Bias | None:
    if bias is None or isinstance(bias, Tensor):
        return None if bias is None else _sliced_bias_tensor(bias, bias, heads)
    if isinstance(bias, mmk.RelativeBias):
        return mmk.RelativeBias(bias.table[:heads])
    return mmk.DecomposedBias(bias.rel_h[:, :heads], bias.rel_w[:, :heads])


def _sliced_bias_tensor(bias: Bias | None, tensor: Tensor, heads: int) -> Tensor:
    if isinstance(bias, mmk.RelativeBias):
        return tensor[:heads]
    return tensor[:, :heads] if tensor.shape[1] > 1 else tensor


def _out_shape(inputs: Inputs) -> tuple[int, ...]:
    query, dim_v = inputs.queries[0], inputs.values[0].shape[-1]
    if inputs.function == "varlen":
        return (*query.shape[:2], dim_v)
    return (max(query.shape[0], inputs.keys[0].shape[0]), *query.shape[1:3], dim_v)
