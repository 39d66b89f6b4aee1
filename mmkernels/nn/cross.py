"""Attention to a context, to oneself, and behind a gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

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
from mmkernels.ops.attention.api import attention, joint_attention


class CrossAttention(Backed, nn.Module):
    """Attention of tokens to a context, or to several: `out(attention(q(x), k(context), v(context)))`.

    Several contexts (text, image, frames) are segments of one key axis, which is never built: equal to attention over
    `torch.cat(contexts, 1)`.

    Args:
        dim: width of x and of the output.
        context_dim: width of the context, `dim` where None. A list gives every context its own projection; with an
            int all contexts share one.
        heads, kv_heads, head_dim: query heads; key heads, `heads` where None; width of a head, `dim // heads`.
        qk_norm: RMSNorm over the head on queries and keys.
        bias: whether the projections have biases.
        scale: of the logits; None is 1 / sqrt(head_dim), T5 has 1.
        dropout: on the attention weights, in training.
        backend: name of a backend, or None.

    Parameters: `q`, `kv` (fused; a ModuleList where context_dim is a list), `q_norm`, `k_norm`, `out`.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | Sequence[int] | None = None,
        heads: int = 8,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        qk_norm: bool = False,
        bias: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: Any = {"device": device, "dtype": dtype}
        self.dim, self.heads = dim, heads
        self.head_dim, self.kv_heads = check_heads(dim, heads, head_dim, kv_heads)
        self.dropout, self.backend, self.scale = check_probability("dropout", dropout), backend, scale
        widths = listed(dim if context_dim is None else context_dim)
        if not widths:
            raise ValueError("context_dim must be an int or at least one, got an empty list")
        self.context_dims = widths
        self.q = nn.Linear(dim, heads * self.head_dim, bias, **place)
        projections = [nn.Linear(width, 2 * self.kv_heads * self.head_dim, bias, **place) for width in widths]
        several = context_dim is not None and not isinstance(context_dim, int)
        self.kv: nn.Module = nn.ModuleList(projections) if several else projections[0]
        self.q_norm = optional_norm(qk_norm, self.head_dim, device, dtype)
        self.k_norm = optional_norm(qk_norm, self.head_dim, device, dtype)
        self.out = nn.Linear(heads * self.head_dim, dim, bias, **place)

    def forward(
        self,
        x: Tensor,
        context: Tensor | Sequence[Tensor],
        *,
        mask: Mask | Tensor | None = None,
        bias: Any = None,
    ) -> Tensor:
        """x (B, L, dim), context (B or 1, Lk, context_dim) or a list of such; mask and bias as in `attention`."""
        check_tokens("x", x, self.dim)
        contexts = [context] if isinstance(context, Tensor) else check_list("context", context)
        own = isinstance(self.kv, nn.ModuleList)
        projections = list(self.kv) if isinstance(self.kv, nn.ModuleList) else [self.kv] * len(contexts)
        widths = self.context_dims if own else self.context_dims * len(contexts)
        if not contexts or len(contexts) != len(projections):
            expected = f"{len(projections)}" if own else "at least 1"
            raise ValueError(f"context must hold {expected} tensor(s), got {len(contexts)}")
        keys, values = [], []
        for i, (tokens, projection, width) in enumerate(zip(contexts, projections, widths, strict=True)):
            check_tokens(f"context[{i}]" if len(contexts) > 1 else "context", tokens, width)
            key, value = split_heads(projection(tokens), self.kv_heads, 2)
            keys.append(self.k_norm(key))
            values.append(value)
        (query,) = split_heads(self.q(x), self.heads)
        out = attention(
            self.q_norm(query),
            keys if len(keys) > 1 else keys[0],
            values if len(values) > 1 else values[0],
            mask=mask,
            bias=bias,
            scale=self.scale,
            dropout_p=self.dropout if self.training else 0.0,
            backend=self.backend,
        )
        return self.out(merge_heads(out))


class SelfAttention(Backed, nn.Module):
    """Attention of tokens to each other, with one fused projection whose thirds are read in place.

    Args: as `CrossAttention`. Parameters: `qkv` (rows: queries, keys, values), `q_norm`, `k_norm`, `out`.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        qk_norm: bool = False,
        bias: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.head_dim, self.kv_heads = check_heads(dim, heads, head_dim, kv_heads)
        self.dropout, self.backend, self.scale = check_probability("dropout", dropout), backend, scale
        self.qkv = nn.Linear(dim, (heads + 2 * self.kv_heads) * self.head_dim, bias, device=device, dtype=dtype)
        self.q_norm = optional_norm(qk_norm, self.head_dim, device, dtype)
        self.k_norm = optional_norm(qk_norm, self.head_dim, device, dtype)
        self.out = nn.Linear(heads * self.head_dim, dim, bias, device=device, dtype=dtype)

    @overload
    def forward(self, x: Tensor, *, mask: Mask | Tensor | None = None, bias: Any = None) -> Tensor: ...

    @overload
    def forward(self, x: Sequence[Tensor], *, mask: Mask | Tensor | None = None, bias: Any = None) -> list[Tensor]: ...

    def forward(
        self, x: Tensor | Sequence[Tensor], *, mask: Mask | Tensor | None = None, bias: Any = None
    ) -> Tensor | list[Tensor]:
        """x (B, L, dim), or a list of the sequence's segments (B or 1, L_s, dim), which then comes back as such a list.

        Segments mean their concatenation, which is never built. mask and bias as in `attention`, over all tokens.
        """
        call: Any = {"mask": mask, "bias": bias, "scale": self.scale, "backend": self.backend}
        call["dropout_p"] = self.dropout if self.training else 0.0
        if isinstance(x, Tensor):
            check_tokens("x", x, self.dim)
            return self.out(merge_heads(attention(*self.heads_of(x), **call)))
        for i, segment in enumerate(check_list("x", x)):
            check_tokens(f"x[{i}]", segment, self.dim)
        queries, keys, values = zip(*(self.heads_of(segment) for segment in x), strict=True)
        return [self.out(merge_heads(out)) for out in joint_attention(queries, keys, values, **call)]

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, L, head_dim), views of one product."""
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        query, key, value = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2).split(sizes, 1)
        return self.q_norm(query), self.k_norm(key), value


class GatedCrossAttention(nn.Module):
    """Flamingo's block: tokens look at a context behind gates that start closed.

    Equivalent::

        x = x + tanh(attention_gate) * attention(norm(x), context)
        x = x + tanh(ffn_gate) * ffn(ffn_norm(x))                   # where ffn_dim is not 0

    A token that sees no media gets exactly nothing from the attention, since no projection has a bias.

    Args:
        ffn_dim: width of the feed-forward part (linear, GELU, linear), 4 * dim where None, 0 leaves it out.
        others: as `CrossAttention`.

    Parameters: `norm`, `attention`, `attention_gate` (scalar), `ffn_norm`, `ffn`, `ffn_gate`.
    Source: Alayrac et al., "Flamingo: a visual language model for few-shot learning", 2022.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | Sequence[int] | None = None,
        heads: int = 8,
        *,
        ffn_dim: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        qk_norm: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: Any = {"device": device, "dtype": dtype}
        self.norm = nn.LayerNorm(dim, **place)
        self.attention = CrossAttention(
            dim, context_dim, heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm=qk_norm, bias=bias,
            dropout=dropout, backend=backend, **place,
        )  # fmt: skip
        self.attention_gate = nn.Parameter(torch.zeros((), **place))
        width = 4 * dim if ffn_dim is None else ffn_dim
        if width < 0:
            raise ValueError(f"ffn_dim must be at least 0, got {width}")
        self.ffn: nn.Module | None = None
        if width:
            self.ffn_norm = nn.LayerNorm(dim, **place)
            self.ffn = nn.Sequential(
                nn.Linear(dim, width, bias, **place), nn.GELU(), nn.Linear(width, dim, bias, **place)
            )
            self.ffn_gate = nn.Parameter(torch.zeros((), **place))

    @property
    def backend(self) -> str | None:
        """The backend of the attention inside."""
        return self.attention.backend

    @backend.setter
    def backend(self, name: str | None) -> None:
        self.attention.backend = name

    def forward(
        self,
        x: Tensor,
        context: Tensor | Sequence[Tensor],
        *,
        mask: Mask | Tensor | None = None,
        bias: Any = None,
    ) -> Tensor:
        """x (B, L, dim), context as in `CrossAttention`; `mask=Mask.media(...)` shows each token its media only."""
        x = x + self.attention_gate.tanh() * self.attention(self.norm(x), context, mask=mask, bias=bias)
        if self.ffn is not None:
            x = x + self.ffn_gate.tanh() * self.ffn(self.ffn_norm(x))
        return x
