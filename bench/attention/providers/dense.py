"""A call in the form that peers take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.call import Call
from bench.attention.inputs import Bias
from bench.attention.work import lengths_of, visible
from bench.case import Case
from bench.provider import Prepared, Results, cpu_only

MOST_BYTES = 1 << 29
"""Of a matrix of weights: paths that keep several of larger ones are left out."""


@dataclass
class Dense:
    """A call as peers take it: (B, H, L, D) operands, a bool mask, a dense bias. Packed sequences are padded.

    Segments are concatenated in `operands()`, which is part of what is timed: the model has them apart.
    """

    call: Call
    leaves: list[Tensor]
    mask: Tensor | None
    """(B, 1, Lq, Lk), True where visible; with `causal` it is not needed."""
    causal: bool
    lengths: tuple[list[int], list[int]] | None
    """Of packed sequences."""

    @classmethod
    def of(cls, call: Call) -> Dense:
        """Lays the call out."""
        inputs = call.inputs
        if inputs.options.get("softcap"):
            raise ValueError("softcap is not part of its interface")
        if inputs.function != "varlen":
            causal = inputs.mask is not None and inputs.mask.kind == "causal"
            return cls(call, list(inputs.leaves().values()), visible(inputs), causal, None)
        q_lens, k_lens = lengths_of(inputs)
        assert inputs.bias is None and inputs.mask is None, "no case is packed and has a bias or a mask"
        sides = ((inputs.queries, q_lens), (inputs.keys, k_lens), (inputs.values, k_lens))
        leaves = [padded(x[0].detach(), lens).requires_grad_(call.backward) for x, lens in sides]
        mask = (torch.arange(max(k_lens)) < torch.tensor(k_lens)[:, None]).to(leaves[0].device)
        return cls(call, leaves, mask[:, None, None, :], False, (q_lens, k_lens))

    def operands(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value."""
        if self.lengths is not None:
            return self.leaves[0], self.leaves[1], self.leaves[2]
        inputs = self.call.inputs
        query, key, value = (
            x[0] if len(x) == 1 else torch.cat(x, 2) for x in (inputs.queries, inputs.keys, inputs.values)
        )
        batch = max(query.shape[0], key.shape[0])
        query, key, value = (x if x.shape[0] == batch else x.expand(batch, -1, -1, -1) for x in (query, key, value))
        return query, key, value

    def dense_bias(self, index: bool = True) -> Tensor | None:
        """The bias as a matrix, in the dtype of the operands; differentiable."""
        bias = self.call.inputs.bias
        if bias is None:
            return None
        query, key = self.call.inputs.queries[0], self.call.inputs.keys[0]
        return as_matrix(bias, query.shape[2], key.shape[2], index).to(self.call.dtype)

    @property
    def matrix_bytes(self) -> int:
        """Of one matrix of weights."""
        query, key, _ = (x.detach() for x in self.operands())
        return query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] * query.element_size()

    @property
    def group(self) -> int:
        """Query heads to a key head."""
        axis = 1 if self.lengths is not None or self.call.inputs.function != "varlen" else 0
        return self.leaves[0].shape[axis] // self.leaves[1].shape[axis]

    @property
    def scale(self) -> float | None:
        """None: torch's default, which is ours too."""
        return self.call.inputs.options.get("scale")

    @property
    def dropout_p(self) -> float:
        """Probability to drop."""
        return self.call.inputs.options.get("dropout_p", 0.0)

    def grad_out(self) -> Tensor:
        """The gradient of the one output."""
        if self.lengths is not None:
            return padded(self.call.grads[0], self.lengths[0])
        return torch.cat(self.call.grads, 2)

    def prepared(self, forward: Callable[[], Tensor], way: str = "") -> Prepared:
        """A way that computes the (B, H, Lq, Dv) output, with its gradients where the call has them."""
        if not self.call.backward:
            return Prepared(forward, lambda out: self.results(out, ()), way)
        grad_out, leaves = self.grad_out(), self.leaves

        def both() -> tuple[Tensor, tuple[Tensor, ...]]:
            out = forward()
            return out, torch.autograd.grad(out, leaves, grad_out)

        return Prepared(both, lambda found: self.results(*found), way)

    def results(self, out: Tensor, grads: tuple[Tensor, ...]) -> Results:
        """By name, in our layout."""
        inputs = self.call.inputs
        named = [f"grad {name}" for name in inputs.leaves()]
        if self.lengths is not None:
            q_lens, k_lens = self.lengths
            found = {"out": packed(out, q_lens)}
            for name, grad, lens in zip(named, grads, (q_lens, k_lens, k_lens)):
                found[name] = packed(grad, lens)
            return found
        if len(inputs.queries) > 1:
            pieces = out.split([query.shape[2] for query in inputs.queries], 2)
            found = {f"out {index}": piece for index, piece in enumerate(pieces)}
        else:
            found = {"out": out}
        return found | dict(zip(named, grads))


@dataclass
class Folded:
    """A forward call for graph runtimes: contiguous fp32 operands, and mask and bias as one matrix to add.

    Query heads that share a key head become rows of it, which saves the peer the copies of the keys.
    """

    dense: Dense
    query: Tensor
    key: Tensor
    value: Tensor
    added: Tensor | None
    bias: Tensor | None
    causal: bool
    scale: float

    @classmethod
    def of(cls, dense: Dense) -> Folded:
        """Lays the call out."""
        query, key, value = (x.contiguous() for x in dense.operands())
        bias = dense.dense_bias()
        added = bias
        if dense.mask is not None:
            zero = torch.zeros(dense.mask.shape) if bias is None else bias
            added = zero.masked_fill(~dense.mask, -torch.inf).contiguous()
        scale = query.shape[-1] ** -0.5 if dense.scale is None else dense.scale
        if dense.group > 1:
            if added is not None:
                raise ValueError("grouped heads with a mask or bias are not laid out for it")
            query = query.unflatten(1, (key.shape[1], dense.group)).flatten(2, 3)
        return cls(dense, query, key, value, added, bias, dense.causal, scale)

    def results(self, out: Tensor) -> Results:
        """By name, in our layout."""
        if self.dense.group > 1:
            out = out.unflatten(2, (self.dense.group, -1)).flatten(1, 2)
        return self.dense.results(out, ())


def fp32_forward_only(case: Case) -> str | None:
    """Why a runtime for inference on a CPU is not measured."""
    if reason := cpu_only(case):
        return reason
    if case.backward:
        return "no backward: a runtime for inference"
    if case.dtype != "float32":
        return "measured in fp32 only"
    if case.problem.dropout_p:
        return "no dropout"
    return None


def as_matrix(bias: Bias, q_len: int, k_len: int, index: bool = True) -> Tensor:
    """A bias of any kind as (B or 1, H, Lq, Lk); a relative one by indexing its table, or as a view with strides."""
    if isinstance(bias, Tensor):
        return bias
    if isinstance(bias, mmk.DecomposedBias):
        return (bias.rel_h[..., :, None] + bias.rel_w[..., None, :]).flatten(-2)
    if index:
        rows, keys = (torch.arange(length, device=bias.table.device) for length in (q_len, k_len))
        distance = keys[None, :] - rows[:, None] + q_len - 1
        return bias.table[:, distance][None]
    return bias.table.unfold(1, k_len, 1).flip(1)[None]


def padded(packed_rows: Tensor, lens: list[int]) -> Tensor:
    """(T, H, D) as (B, H, L, D) with zeros at the ends."""
    pieces = packed_rows.split(lens)
    return torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True).transpose(1, 2).contiguous()


def packed(rows: Tensor, lens: list[int]) -> Tensor:
    """The way back from `padded`."""
    return torch.cat([rows[n, :, :length].transpose(0, 1) for n, length in enumerate(lens)])
