"""The CUDA attention kernels as a backend on CPU tensors: the emulator (docs/kernels/emulator.md) in the GPU's place.

`emulated(emulator)` puts it where the "cuda" backend stands, so that the public functions, and with them every check of
the conformance suite, run on it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmkernels.layout import empty_gradient, empty_like_query, unit_last_stride
from mmkernels.ops.attention import native_call
from mmkernels.ops.attention.empty_rows import unmask_empty_rows
from mmkernels.ops.attention.lowered import Lowered, empty_lse
from tests.backends import in_place_of

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def array(tensor: Tensor | None) -> np.ndarray | None:
    """The same memory as an array; 16-bit numbers as their bits."""
    if tensor is None:
        return None
    if tensor.dtype in (torch.bfloat16, torch.float16):
        return tensor.detach().view(torch.uint16).numpy() if tensor.numel() else np.zeros(tensor.shape, np.uint16)
    return tensor.detach().view(torch.uint8).numpy() if tensor.dtype == torch.bool else tensor.detach().numpy()


@dataclass
class Emulated:
    """A backend module as `mmkernels.backend` wants it."""

    emulator: ModuleType
    seed: int = 0
    kind: str | None = None
    """A kernel of the table ("plain", "few", "general", "general_few"), or None for the plan's choice."""
    processors: int = 1
    """More of them make the plan split keys."""
    backward_by: ModuleType | None = None
    """Another module that has the backward."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """What each launch was: kind, blocks, splits, pack."""

    def why_not(self, problem: Any) -> list[str]:
        """Nothing."""
        return []

    def forward(self, call: Lowered, with_lse: bool) -> tuple[Tensor, Tensor | None]:
        """(out, lse) of the lowered call."""
        call = native_call.readable(unmask_empty_rows(call))
        out = empty_like_query(call.query, call.values[0].shape[-1])
        lse = empty_lse(call.query, call.cu_seqlens_q is not None) if with_lse else None
        for tensor in (out, lse):
            if tensor is not None:
                tensor.fill_(torch.nan)  # what no thread writes shows
        run = self.emulator.Run(seed=self.seed)
        arguments = described(call) | {"out": array(out), "lse": array(lse)}
        self.told.append(self.emulator.attention_forward(run, arguments, self.kind, self.processors))
        return out, lse

    def backward(
        self, grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """Dense gradients of the needed ones; (0,) and [] for the others."""
        call = native_call.readable(unmask_empty_rows(call))
        query = empty_gradient(call.query) if needs[0] else None
        keys = [empty_gradient(key) for key in call.keys] if needs[1] else []
        values = [empty_gradient(value) for value in call.values] if needs[2] else []
        bias = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in call.bias] if needs[3] else []
        for grad in (*([query] if query is not None else []), *keys, *values, *bias):
            grad.fill_(torch.nan if out.numel() else 0.0)  # what no thread writes shows
        none = out.new_empty((0,))
        if out.numel():
            given = {"grad_out": array(unit_last_stride(grad_out)), "grad_lse": array(grad_lse)}
            given |= {"out": array(unit_last_stride(out)), "lse": array(lse), "grad_query": array(query)}
            given |= {"grad_keys": [array(grad) for grad in keys], "grad_values": [array(grad) for grad in values]}
            given |= {"grad_bias": [array(grad) for grad in bias]}
            module = self.backward_by or self.emulator
            module.attention_backward(module.Run(seed=self.seed), described(call) | given)
        return none if query is None else query, keys, values, bias


def described(call: Lowered) -> dict[str, Any]:
    """The call as the emulator takes it."""
    packed = call.cu_seqlens_q is not None
    batch = call.query.shape[0]
    for tensor in (*call.keys, *call.values):
        batch = batch if packed or tensor.shape[0] == 1 else tensor.shape[0]
    return call._asdict() | {
        "query": array(call.query),
        "keys": [array(key) for key in call.keys],
        "values": [array(value) for value in call.values],
        "start": array(call.start),
        "stop": array(call.stop),
        "visible": array(call.visible),
        "interval_exact": array(call.interval_exact),
        "bias": [array(part) for part in call.bias],
        "bias_dtypes": [NAMES[part.dtype] for part in call.bias],
        "seed": array(call.seed),
        "cu_seqlens_q": array(call.cu_seqlens_q),
        "cu_seqlens_k": array(call.cu_seqlens_k),
        "offsets": list(call.offsets),
        "dtype": NAMES[call.query.dtype],
        "batch": len(call.cu_seqlens_q) - 1 if packed else batch,
    }


@contextmanager
def emulated(emulator: ModuleType, **options: Any) -> Iterator[Emulated]:
    """`backend="cuda"` is the emulator meanwhile."""
    with in_place_of("cuda", "attention", Emulated(emulator, **options)) as module:
        yield module
