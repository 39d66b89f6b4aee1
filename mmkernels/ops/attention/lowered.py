"""The lowered call: the plain values that pass from the front to the ops and the backends (docs/architecture.md)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmkernels.backend import Problem

BIAS_NAMES = ("none", "dense", "relative", "decomposed")


class Lowered(NamedTuple):
    """One attention call, in the order of the op's arguments (without ``backend``)."""

    query: Tensor
    """(B, Hq, Lq, D); varlen (T, Hq, D)."""
    keys: list[Tensor]
    """Per segment (B or 1, Hk, Lk_s, D); varlen one tensor (Tk, Hk, D)."""
    values: list[Tensor]
    """As keys, with Dv."""
    start: Tensor | None = None
    stop: Tensor | None = None
    """int32 (S, B, Hq, Lq), any axis may be 1: visible keys are [start, stop), local to the segment."""
    visible: Tensor | None = None
    """bool (B, Hq, Lq, Lk), any axis may be 1: and visible here."""
    interval_exact: Tensor | None = None
    """bool (): true says that ``visible`` need not be read."""
    bias: list[Tensor] = []  # noqa: RUF012 (never changed)
    bias_kind: int = 0
    relative_zero: int = 0
    seed: Tensor | None = None
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0
    dropout_p: float = 0.0
    unmask_empty_rows: bool = False
    offsets: tuple[int, ...] | list[int] = (0, 0, 0, 0)

    def tensors(self) -> list[Tensor | None]:
        """Every tensor argument, None where absent."""
        return [
            self.query, *self.keys, *self.values, *self.bias, self.start, self.stop, self.visible,
            self.interval_exact, self.seed, self.cu_seqlens_q, self.cu_seqlens_k,
        ]  # fmt: skip


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32, or fp64 for fp64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_lse(query: Tensor, varlen: bool) -> Tensor:
    """Uninitialised lse of the call: (B, Hq, Lq), varlen (Hq, T); dense."""
    # Sizes one by one: torch.empty parses them in half the time that a tuple takes, and every small call pays it.
    dtype = lse_dtype(query.dtype)
    if varlen:
        tokens, heads, _ = query.shape
        return torch.empty(heads, tokens, dtype=dtype, device=query.device)
    batch, heads, length, _ = query.shape
    return torch.empty(batch, heads, length, dtype=dtype, device=query.device)


def problem_of(call: Lowered, direction: str) -> Problem:
    """What the dispatcher needs to know of a lowered call; ``direction`` is "forward" or "backward"."""
    features = []
    if call.start is not None or call.stop is not None:
        features.append("mask")
    if call.visible is not None:
        features.append("dense mask")
    if call.bias_kind:
        features.append(f"{BIAS_NAMES[call.bias_kind]} bias")
    if call.dropout_p:
        features.append("dropout")
    if call.softcap:
        features.append("softcap")
    if call.cu_seqlens_q is not None:
        features.append("varlen")
    if len(call.keys) > 1:
        features.append("segments")
    query = call.query
    shapes = (tuple(query.shape), *[tuple(x.shape) for x in call.keys], *[tuple(x.shape) for x in call.values])
    other_dtypes = frozenset([part.dtype for part in call.bias])
    return Problem(f"attention_{direction}", query.device, query.dtype, shapes, frozenset(features), other_dtypes)
