"""mmkernels, on the backend it picks by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import mmkernels as mmk
from bench.attention.call import Call
from bench.provider import OurPackage, Prepared, Results


class Ours(OurPackage):
    """The public functions, called as a model calls them."""

    def prepare(self, call: Call) -> list[Prepared]:
        """One way: the call."""
        inputs = call.inputs
        forward = self._forward(call)
        names = ["out"] if inputs.function != "joint" else [f"out {n}" for n in range(len(inputs.queries))]
        leaves = inputs.leaves()

        def listed(found: Any) -> list[torch.Tensor]:
            return found if isinstance(found, list) else [found]

        if not call.backward:
            return [Prepared(forward, lambda found: dict(zip(names, listed(found))))]
        operands, grads = list(leaves.values()), call.grads

        def both() -> tuple[Any, tuple[torch.Tensor, ...]]:
            outs = listed(forward())
            return outs, torch.autograd.grad(outs, operands, grads)

        def results(found: Any) -> Results:
            outs, gradients = found
            return dict(zip(names, outs)) | dict(zip((f"grad {name}" for name in leaves), gradients))

        return [Prepared(both, results)]

    @staticmethod
    def _forward(call: Call) -> Callable[[], Any]:
        inputs = call.inputs
        common: dict[str, Any] = {"mask": inputs.mask, "bias": inputs.bias} | dict(inputs.options)
        common = {name: value for name, value in common.items() if value is not None}
        if inputs.function == "joint":
            return lambda: mmk.joint_attention(inputs.queries, inputs.keys, inputs.values, **common)
        query, key, value = inputs.queries[0], inputs.keys[0], inputs.values[0]
        if inputs.function == "varlen":
            cu_q, cu_k = inputs.cu_seqlens_q, inputs.cu_seqlens_k
            assert cu_q is not None and cu_k is not None
            return lambda: mmk.attention_varlen(query, key, value, cu_q, cu_k, **common)
        if len(inputs.keys) > 1:
            return lambda: mmk.attention(query, inputs.keys, inputs.values, **common)
        return lambda: mmk.attention(query, key, value, **common)
