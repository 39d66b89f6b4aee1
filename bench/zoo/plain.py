"""The ops as a textbook writes them in torch, put in the place of ours: the same modules, weights and data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contrastive.plain import sigmoid_softplus, softmax_transposed
from bench.fusion.plain import concatenated
from mmkernels.bias import RelativeBias
from mmkernels.mask import Mask

REPLACED = {
    "mmkernels.nn.cross.attention": "attention",
    "mmkernels.nn.cross.joint_attention": "joint_attention",
    "mmkernels.nn.fusion.concat_fusion": "concat_fusion",
    "mmkernels.models.zoo.objectives.contrastive.contrastive_loss": "contrastive_loss",
}
"""Where the zoo's modules find our ops, and what stands there instead."""


class Plain:
    """The ops. A mask becomes dense once a step, however many layers ask for it, as a model that keeps one does."""

    def __init__(self) -> None:
        self._dense: dict[tuple[Any, ...], tuple[Mask, Tensor, Tensor | None]] = {}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The zoo runs on these ops."""
        self._dense.clear()
        with contextlib.ExitStack() as stack:
            for where, name in REPLACED.items():
                stack.enter_context(mock.patch(where, getattr(self, name)))
            yield

    def attention(
        self, query: Tensor, key: Any, value: Any, *, mask: Mask | None = None, bias: RelativeBias | None = None,
        scale: float | None = None, dropout_p: float = 0.0, backend: str | None = None,
    ) -> Tensor:  # fmt: skip
        """softmax(scale * q kT + bias) v; keys and values in segments are concatenated."""
        lengths = [x.shape[2] for x in ([key] if isinstance(key, Tensor) else key)]
        key, value = (x if isinstance(x, Tensor) else torch.cat(x, 2) for x in (key, value))
        logits = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if bias is not None:
            logits = logits + bias.to_dense(query.shape[2], key.shape[2])
        blind = None
        if mask is not None:
            hidden, blind = self._hidden(mask, query, lengths)
            logits = logits.masked_fill(hidden, -torch.inf)
        weights = logits.softmax(-1)
        if blind is not None:
            weights = weights.masked_fill(blind, 0.0)
        return F.dropout(weights, dropout_p) @ value

    def joint_attention(self, queries: Sequence[Tensor], keys: Any, values: Any, **call: Any) -> list[Tensor]:
        """`attention` of all segments' queries, in their segments again."""
        out = self.attention(torch.cat(list(queries), 2), list(keys), list(values), **call)
        return list(out.split([x.shape[2] for x in queries], 2))

    def concat_fusion(
        self, inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None,
        norm: Any = None, gate: Any = None, residual: Any = None, backend: str | None = None,
    ) -> Tensor:  # fmt: skip
        """cat, linear, activation: what the zoo asks for."""
        if activation not in (None, "gelu") or not norm is gate is residual is None:
            raise ValueError("the zoo fuses with gelu or nothing")
        y = F.linear(concatenated(inputs), weight, bias)
        return y if activation is None else F.gelu(y)

    def contrastive_loss(
        self, image: Tensor, text: Tensor, scale: Tensor, *, kind: str, logit_bias: Tensor | None = None,
        label_smoothing: float = 0.0, backend: str | None = None,
    ) -> Tensor:  # fmt: skip
        """The whole matrix of logits."""
        if label_smoothing:
            raise ValueError("label_smoothing must be 0 here")
        loss = softmax_transposed if kind == "softmax" else sigmoid_softplus
        return loss(image, text, scale, logit_bias)

    def _hidden(self, mask: Mask, query: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor | None]:
        """Pairs that are not seen (B, 1, Lq, Lk), and rows that see nothing, where there are such."""
        key = (id(mask), len(query), query.shape[2], *lengths)
        if key not in self._dense:
            hidden = ~mask.to_dense(len(query), 1, query.shape[2], lengths)
            blind = hidden.all(-1, keepdim=True)
            self._dense[key] = (mask, hidden, blind if blind.any() else None)  # the mask too, or its id would be reused
        return self._dense[key][1:]
