"""Attention of several streams to all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.nn.common import (
    Backed,
    check_heads,
    check_list,
    check_probability,
    check_tokens,
    listed,
    merge_heads,
    optional_norm,
    split_heads,
)
from mmkernels.ops.attention.api import joint_attention


class JointAttention(Backed, nn.Module):
    """MM-DiT attention: every stream has its own projections, and all tokens see all tokens of all streams.

    Equivalent to attention over the concatenation of the streams' queries, keys and values, split again; nothing is
    concatenated.

    Args:
        dims: width of every stream.
        heads: of every stream.
        head_dim: width of a head; `dims[0] // heads` where None.
        qk_norm: RMSNorm over the head on queries and keys, for every stream its own.
        bias: whether the projections have biases.
        dropout: on the attention weights, in training.
        backend: name of a backend, or None.

    Parameters: `qkv`, `q_norm`, `k_norm`, `out`: lists with one module per stream.
    Source: Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", 2024.
    """

    def __init__(
        self,
        dims: Sequence[int],
        heads: int = 8,
        *,
        head_dim: int | None = None,
        qk_norm: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: Any = {"device": device, "dtype": dtype}
        self.dims, self.heads = listed(dims), heads
        if not self.dims:
            raise ValueError("dims must hold the width of at least one stream, got an empty list")
        self.head_dim, _ = check_heads(self.dims[0], heads, head_dim)
        self.dropout, self.backend = check_probability("dropout", dropout), backend
        width = heads * self.head_dim
        self.qkv = nn.ModuleList([nn.Linear(dim, 3 * width, bias, **place) for dim in self.dims])
        self.q_norm = nn.ModuleList([optional_norm(qk_norm, self.head_dim, device, dtype) for _ in self.dims])
        self.k_norm = nn.ModuleList([optional_norm(qk_norm, self.head_dim, device, dtype) for _ in self.dims])
        self.out = nn.ModuleList([nn.Linear(width, dim, bias, **place) for dim in self.dims])

    def forward(
        self,
        streams: Sequence[Tensor],
        *,
        mask: Mask | Tensor | None = None,
        bias: Any = None,
        rotate: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None,
    ) -> list[Tensor]:
        """One output per stream.

        Args:
            streams: list of (B, L_s, dims[s]).
            mask, bias: as in `joint_attention`, over the concatenated tokens.
            rotate: called with (query, key, s) of every stream, (B, heads, L_s, head_dim), returns both with position
                put in (rotary embedding).
        """
        check_list("streams", streams, len(self.dims))
        queries, keys, values = [], [], []
        for i, x in enumerate(streams):
            check_tokens(f"streams[{i}]", x, self.dims[i])
            query, key, value = split_heads(self.qkv[i](x), self.heads, 3)
            query, key = self.q_norm[i](query), self.k_norm[i](key)
            if rotate is not None:
                query, key = rotate(query, key, i)
            queries.append(query)
            keys.append(key)
            values.append(value)
        outs = joint_attention(
            queries,
            keys,
            values,
            mask=mask,
            bias=bias,
            dropout_p=self.dropout if self.training else 0.0,
            backend=self.backend,
        )
        return [out(merge_heads(x)) for out, x in zip(self.out, outs, strict=True)]
