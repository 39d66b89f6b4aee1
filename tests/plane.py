"""One dense attention in plain torch, and the sums of absolute terms behind each of its results."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INF = float("inf")


@dataclass
class Plane:
    """One dense attention: query (B, Hq, Lq, D), key and value with as many heads, the rest broadcastable."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    visible: Tensor
    keep: Tensor | None
    scale: float
    softcap: float

    def attend(self) -> tuple[Tensor, Tensor]:
        """(out, lse); rows that see nothing give 0 and -inf."""
        logits = self.query @ self.key.transpose(-2, -1) * self.scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if self.bias is not None:
            logits = logits + self.bias
        logits = logits.masked_fill(~self.visible, -INF)
        empty = ~self.visible.any(-1, keepdim=True)
        logits = logits.masked_fill(empty, 0.0)
        weights = torch.softmax(logits, -1).masked_fill(empty, 0.0)
        # lse with the softmax as its derivative: torch's own, exp(logits - lse), is 1 in a row of finfo.min.
        moved = torch.where(self.visible, logits - logits.detach(), 0.0)
        lse = torch.logsumexp(logits.detach(), -1) + (weights.detach() * moved).sum(-1)
        if self.keep is not None:
            weights = weights * self.keep.to(weights.dtype)
        return weights @ self.value, lse.masked_fill(empty.squeeze(-1), -INF)

    def terms(self, d_out: Tensor, d_lse: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Sums of the absolute products behind out, lse and the gradients of this plane's tensors.

        Returns:
            (terms, inner): `terms` takes the probabilities as given, `inner` are the same sums with each probability
            multiplied by the products of its logit and of its row's, which is how far their rounding moves it. The
            bias is left out: beside finfo.min it would allow anything, and naive adds it just as well.
        """
        query, key, value, d_out = (x.detach().abs() for x in (self.query, self.key, self.value, d_out))
        raw = self.query.detach() @ self.key.detach().transpose(-2, -1) * self.scale
        size = query @ key.transpose(-2, -1) * abs(self.scale)
        slope = torch.ones_like(raw)
        logits = raw
        if self.softcap:
            tanh = torch.tanh(raw / self.softcap)
            logits = self.softcap * tanh
            size = size * (1 - tanh**2) + logits.abs()
            slope = 1 + tanh**2  # 1 - tanh^2 cancels: its error is that of 1
        bias = torch.zeros_like(raw) if self.bias is None else self.bias.detach().expand(raw.shape)
        logits = (logits + bias).masked_fill(~self.visible, -INF)
        size, bias = size.masked_fill(~self.visible, 0.0), bias.abs().masked_fill(~self.visible, 0.0)
        empty = ~self.visible.any(-1, keepdim=True)
        weights = torch.softmax(logits.masked_fill(empty, 0.0), -1)
        # eps of 2^-103 is below fp32's smallest normal number, and a weight smaller than that may count as 0
        weights = weights.clamp_min(2.0**-103).masked_fill(~self.visible, 0.0)
        lse = torch.logsumexp(logits.masked_fill(empty, 0.0), -1)
        row_size = (weights * size).sum(-1, keepdim=True) + 1.0
        lse_size = row_size.squeeze(-1) + (weights * bias).sum(-1) + lse.abs()
        keep = torch.ones_like(raw) if self.keep is None else self.keep
        d_weights = d_out @ value.transpose(-2, -1) * keep
        d_lse = d_lse.abs().masked_fill(empty.squeeze(-1), 0.0)[..., None]

        def sums(weights: Tensor, d_biased: Tensor) -> dict[str, Tensor]:
            dropped, d_raw = weights * keep, d_biased * slope * abs(self.scale)
            return {
                "out": dropped @ value,
                "lse": lse_size,
                "query": d_raw @ key,
                "key": d_raw.transpose(-2, -1) @ query,
                "value": dropped.transpose(-2, -1) @ d_out,
                "bias": d_biased,
            }

        moved = weights * (size + row_size)
        delta, d_delta = ((d_out * ((w * keep) @ value)).sum(-1, keepdim=True) for w in (weights, moved))
        d_biased = d_weights + delta + d_lse
        return sums(weights, weights * d_biased), sums(moved, moved * d_biased + weights * d_delta)
