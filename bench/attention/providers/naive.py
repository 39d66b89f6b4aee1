"""softmax(q kT) v as a textbook writes it, in torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attention.call import Call
from bench.attention.providers.dense import MOST_BYTES, Dense
from bench.attention.work import element_size
from bench.case import Case
from bench.provider import InTorch, Prepared


class Naive(InTorch):
    """The path that every model starts with."""

    name = "naive"

    def why_not(self, case: Case) -> str | None:
        """It keeps whole matrices."""
        p = case.problem
        batch = len(p.q_lens) if p.function == "varlen" else p.batch
        size = batch * p.heads * p.q_len * p.k_len * element_size(case.dtype)
        if size > MOST_BYTES:
            return f"one matrix of weights takes {size / 2**30:.1f} GiB, several are kept: left out"
        return None

    def prepare(self, call: Call) -> list[Prepared]:
        """One way."""
        dense = Dense.of(call)
        hidden = None if dense.mask is None else ~dense.mask
        group, dropout_p = dense.group, dense.dropout_p
        fixed = None if call.backward else dense.dense_bias()

        def forward() -> Tensor:
            query, key, value = dense.operands()
            if group > 1:
                key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
            scale = query.shape[-1] ** -0.5 if dense.scale is None else dense.scale
            logits = query @ key.transpose(-1, -2) * scale
            bias = dense.dense_bias() if call.backward else fixed
            if bias is not None:
                logits = logits + bias
            if hidden is not None:
                logits = logits.masked_fill(hidden, -torch.inf)
            weights = logits.softmax(-1)
            if dropout_p:
                weights = F.dropout(weights, dropout_p)
            return weights @ value

        return [dense.prepared(forward)]
