"""flash-attn (Dao-AILab) on a GPU. Written from its documentation; it has never run here, where there is no GPU."""

from __future__ import annotations

import torch

from bench.attention.call import Call
from bench.attention.providers.dense import Dense
from bench.case import Case
from bench.provider import Prepared, gpu_only, installed


class FlashAttn:
    """`flash_attn_func` on (B, L, H, D) operands, laid out beforehand."""

    name = "flash-attn"

    def version(self) -> str | None:
        """Of the package."""
        return installed("flash-attn")

    def instruction_set(self) -> str:
        """It has no CPU kernels."""
        return "GPU only"

    def why_not(self, case: Case) -> str | None:
        """What its interface lacks."""
        problem = case.problem
        if case.dtype == "float32":
            return "bf16 and fp16 only"
        if problem.bias is not None:
            return "no bias"
        if problem.function == "varlen" or (problem.mask is not None and "causal" not in problem.name):
            return "left out: masks other than causal, and packed sequences"
        if problem.dim_v not in (None, problem.dim) or problem.dim > 256:
            return "D must equal Dv and be at most 256"
        return gpu_only(case)

    def prepare(self, call: Call) -> list[Prepared]:
        """One way."""
        from flash_attn import flash_attn_func

        dense = Dense.of(call)

        def forward() -> torch.Tensor:
            query, key, value = (x.transpose(1, 2) for x in dense.operands())
            out = flash_attn_func(
                query, key, value, dropout_p=dense.dropout_p, softmax_scale=dense.scale, causal=dense.causal
            )
            return out.transpose(1, 2)

        return [dense.prepared(forward)]
