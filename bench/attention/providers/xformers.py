"""xformers on a GPU. Written from its documentation; it has never run here, where there is no GPU."""

from __future__ import annotations

import torch

from bench.attention.call import Call
from bench.attention.providers.dense import Dense
from bench.case import Case
from bench.provider import Prepared, gpu_only, installed


class Xformers:
    """`memory_efficient_attention` on (B, L, H, D) operands."""

    name = "xformers"

    def version(self) -> str | None:
        """Of the package."""
        return installed("xformers")

    def instruction_set(self) -> str:
        """It has no CPU kernels."""
        return "GPU only"

    def why_not(self, case: Case) -> str | None:
        """What is left out."""
        problem = case.problem
        if problem.function == "varlen" or problem.bias is not None:
            return "left out: packed sequences and biases"
        if problem.mask is not None and "causal" not in problem.name:
            return "left out: masks other than causal"
        if problem.heads_k not in (None, problem.heads):
            return "left out: grouped heads"
        return gpu_only(case)

    def prepare(self, call: Call) -> list[Prepared]:
        """One way."""
        from xformers import ops

        dense = Dense.of(call)
        bias = ops.LowerTriangularMask() if dense.causal else None

        def forward() -> torch.Tensor:
            query, key, value = (x.transpose(1, 2) for x in dense.operands())
            out = ops.memory_efficient_attention(
                query, key, value, attn_bias=bias, p=dense.dropout_p, scale=dense.scale
            )
            return out.transpose(1, 2)

        return [dense.prepared(forward)]
