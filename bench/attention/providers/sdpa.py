"""torch's scaled_dot_product_attention, by the arguments that serve it best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attention.call import Call
from bench.attention.providers.dense import MOST_BYTES, Dense
from bench.case import Case
from bench.provider import InTorch, Prepared, gpu_only


class Sdpa(InTorch):
    """Ways: is_causal, a bool or a float mask; the fused or the plain kernel; packed: padded, or one by one."""

    name = "SDPA"

    def prepare(self, call: Call) -> list[Prepared]:
        """All ways that apply."""
        dense = Dense.of(call)
        ways = [dense.prepared(forward, way) for way, forward in _forwards(dense)]
        if dense.matrix_bytes <= MOST_BYTES:
            ways.append(_plain_kernel(ways[0]))
        if dense.lengths is not None:
            ways.append(_one_by_one(dense))
        return ways


def _forwards(dense: Dense) -> list[tuple[str, Callable[[], Tensor]]]:
    def call(mask: Callable[[], Tensor | None], causal: bool = False) -> Callable[[], Tensor]:
        gqa, dropout_p, scale = dense.group > 1, dense.dropout_p, dense.scale

        def forward() -> Tensor:
            query, key, value = dense.operands()
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask(), dropout_p=dropout_p, is_causal=causal, scale=scale, enable_gqa=gqa
            )

        return forward

    packing = "padded, " if dense.lengths is not None else ""
    bias = dense.call.inputs.bias
    if bias is None:
        if dense.causal:
            return [("is_causal", call(lambda: None, causal=True))]
        if dense.mask is None:
            return [("fused", call(lambda: None))]
        allowed = dense.mask
        added = torch.zeros_like(allowed, dtype=dense.call.dtype).masked_fill(~allowed, -torch.inf)
        return [(f"{packing}bool mask", call(lambda: allowed)), (f"{packing}float mask", call(lambda: added))]
    hidden = None if dense.mask is None else ~dense.mask
    shaped = isinstance(bias, Tensor) or not hasattr(bias, "table")
    ways: list[tuple[str, Callable[[], Tensor]]] = []
    for by_index in (True,) if shaped else (True, False):

        def matrix(by_index: bool = by_index) -> Tensor:
            added = dense.dense_bias(by_index)
            assert added is not None
            return added if hidden is None else added.masked_fill(hidden, -torch.inf)

        way = "bias as float mask" + ("" if shaped else ", by index" if by_index else ", by strides")
        if dense.call.backward:
            ways.append((way, call(matrix)))
        elif by_index:
            made = matrix()  # without a gradient it is made once, before the time is taken
            ways.append(("bias as float mask", call(lambda made=made: made)))  # type: ignore[misc]
    return ways


def _plain_kernel(way: Prepared) -> Prepared:
    """The same call held to torch's plain kernel: faster than its fused one where 16-bit products have instructions."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def run() -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return way.run()

    return replace(way, run=run, way=f"{way.way}, plain kernel".removeprefix(", "))


def _one_by_one(dense: Dense) -> Prepared:
    """Packed sequences without padding: a call for each."""
    call = dense.call
    assert dense.lengths is not None
    q_lens, k_lens = dense.lengths
    inputs = call.inputs
    leaves = [x[0].detach().requires_grad_(call.backward) for x in (inputs.queries, inputs.keys, inputs.values)]
    scale, gqa = dense.scale, dense.group > 1

    def forward() -> Tensor:
        parts = zip(leaves[0].split(q_lens), leaves[1].split(k_lens), leaves[2].split(k_lens))
        outs = []
        for part in parts:
            query, key, value = (x.transpose(0, 1)[None] for x in part)
            outs.append(F.scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=gqa))
        return torch.cat([out[0].transpose(0, 1) for out in outs])

    def both() -> tuple[Tensor, tuple[Tensor, ...]]:
        out = forward()
        return out, torch.autograd.grad(out, leaves, call.grads[0])

    way = "one call a sequence"
    if not call.backward:
        return Prepared(forward, lambda out: {"out": out}, way)
    names = ("grad query 0", "grad key 0", "grad value 0")
    return Prepared(both, lambda found: {"out": found[0], **dict(zip(names, found[1]))}, way)


class CudnnSdpa:
    """SDPA held to its cuDNN path. It has never run here, where there is no GPU."""

    name = "cuDNN SDPA"

    def version(self) -> str | None:
        """cuDNN's; on a machine without it torch's, which then says why not."""
        found = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
        return torch.__version__ if found is None else f"cuDNN {found}"

    def instruction_set(self) -> str:
        """It has no CPU kernels."""
        return "GPU only"

    def why_not(self, case: Case) -> str | None:
        """Needs a GPU and 16 bits."""
        return gpu_only(case) or ("bf16 and fp16 only" if case.dtype == "float32" else None)

    def prepare(self, call: Call) -> list[Prepared]:
        """The ways of SDPA, with every other kernel forbidden."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def held(run: Callable[[], Any]) -> Callable[[], Any]:
            def within() -> Any:
                with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                    return run()

            return within

        return [replace(way, run=held(way.run)) for way in Sdpa().prepare(call)]
