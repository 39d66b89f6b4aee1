"""torch's FlexAttention, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.call import Call
from bench.attention.inputs import Bias, Inputs
from bench.attention.providers.dense import Dense
from bench.case import Case
from bench.provider import InInductor, Prepared, compiled

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Flex(InInductor):
    """Masks as block masks (causal by index, others looked up), biases as score_mod; packed sequences padded."""

    name = "FlexAttention"

    def why_not(self, case: Case) -> str | None:
        """What its CPU path lacks."""
        if case.device == "cpu" and case.backward:
            return "no backward on a CPU"
        if case.problem.dropout_p:
            return "no dropout"
        return None

    def prepare(self, call: Call) -> list[Prepared]:
        """One way. Compiles here, which takes seconds."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        dense = Dense.of(call)
        query, key, _ = dense.operands()
        mod = _mask_mod(dense, call.inputs)
        block_mask = None
        if mod is not None:
            batch = None if dense.causal else query.shape[0]
            block_mask = create_block_mask(mod, batch, None, query.shape[2], key.shape[2], device=query.device.type)
        options: dict[str, Any] = {"block_mask": block_mask, "score_mod": _score_mod(call.inputs.bias, key.shape[2])}
        options |= {"scale": dense.scale, "enable_gqa": dense.group > 1}
        attend = compiled(flex_attention)

        def forward() -> Tensor:
            return attend(*dense.operands(), **options)

        with torch.no_grad():
            forward()
        return [dense.prepared(forward)]


def _mask_mod(dense: Dense, inputs: Inputs) -> MaskMod | None:
    if dense.causal:
        return lambda b, h, q, k: q >= k
    if dense.mask is None:
        return None
    allowed = dense.mask.contiguous()
    if allowed.shape[2] == 1:
        return lambda b, h, q, k: allowed[b, 0, 0, k]
    return lambda b, h, q, k: allowed[b, 0, q, k]


def _score_mod(bias: Bias | None, k_len: int) -> Callable[..., Tensor] | None:
    if bias is None:
        return None
    if isinstance(bias, mmk.RelativeBias):
        table = bias.table
        zero = table.shape[1] - k_len
        return lambda score, b, h, q, k: score + table[h, k - q + zero]
    if isinstance(bias, mmk.DecomposedBias):
        rel_h, rel_w = bias.rel_h, bias.rel_w
        columns = rel_w.shape[-1]
        return lambda score, b, h, q, k: score + rel_h[b, h, q, k // columns] + rel_w[b, h, q, k % columns]
    first = bias if bias.shape[0] > 1 else None
    if first is not None:
        return lambda score, b, h, q, k: score + bias[b, h, q, k]
    return lambda score, b, h, q, k: score + bias[0, h, q, k]
