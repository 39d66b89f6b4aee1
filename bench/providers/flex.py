"""torch's FlexAttention, compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mmkernels as mmk
from bench.cases import Call, Case
from bench.inputs import Bias, Inputs
from bench.providers.base import Dense, Prepared

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Flex:
    """Masks as block masks (causal by index, others looked up), biases as score_mod; packed sequences padded."""

    name = "FlexAttention"

    def version(self) -> str | None:
        """torch's."""
        return torch.__version__

    def instruction_set(self) -> str:
        """What inductor compiles for."""
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        return str(pick_vec_isa())

    def why_not(self, case: Case) -> str | None:
        """What its CPU path lacks."""
        if case.device == "cpu" and case.backward:
            return "no backward on a CPU"
        if case.problem.dropout_p:
            return "no dropout"
        return None

    def prepare(self, call: Call) -> list[Prepared]:
        """One way. Compiles here, which takes seconds."""
        from torch.nn.attention.flex_attention import create_block_mask

        dense = Dense.of(call)
        query, key, _ = dense.operands()
        mod = _mask_mod(dense, call.inputs)
        block_mask = None
        if mod is not None:
            batch = None if dense.causal else query.shape[0]
            block_mask = create_block_mask(mod, batch, None, query.shape[2], key.shape[2], device=query.device.type)
        options: dict[str, Any] = {"block_mask": block_mask, "score_mod": _score_mod(call.inputs.bias, key.shape[2])}
        options |= {"scale": dense.scale, "enable_gqa": dense.group > 1}
        attend = compiled()

        def forward() -> Tensor:
            return attend(*dense.operands(), **options)

        with torch.no_grad():
            forward()
        return [dense.prepared(forward)]


@functools.cache
def compiled() -> Callable[..., Tensor]:
    """The one compiled function; it specialises for every call it has not seen."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.cache_size_limit = 1024
    return torch.compile(flex_attention, dynamic=False)


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
