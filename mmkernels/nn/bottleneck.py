"""Fusion of modalities through a few tokens that all of them share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.nn.common import (
    Backed,
    Composite,
    check_count,
    check_heads,
    check_list,
    check_probability,
    check_tokens,
    merge_heads,
    split_heads,
)
from mmkernels.ops.attention.api import joint_attention


class BottleneckFusion(Composite):
    """Transformer layers of one modality each, which exchange what they know through bottleneck tokens only.

    Equivalent, with `layer` a pre-norm Transformer layer (attention, then linear, GELU, linear)::

        for group in layers:                       # one layer per modality in each
            updated = []
            for i, layer in enumerate(group):
                both = layer(torch.cat([streams[i], bottleneck], 1))
                streams[i], own = both.split([streams[i].shape[1], tokens], 1)
                updated.append(own)
            bottleneck = torch.stack(updated).mean(0)

    Tokens and bottleneck are segments of the attention's queries and keys: nothing is concatenated. Attention costs
    (L_i + tokens)^2 a modality instead of (sum of L_i)^2.

    Args:
        dim: width of all tokens.
        modalities: number of streams, two or more.
        tokens: number of bottleneck tokens.
        layers: number of layers a modality goes through.
        heads: of the attention.
        ffn_dim: width of the feed-forward part, 4 * dim where None.
        bias: whether linear layers have biases.
        dropout: on the attention weights, in training.
        backend: name of a backend, or None.

    Parameters: `bottleneck` (1, tokens, dim), `layers.<layer>.<modality>` with `norm`, `qkv`, `out`, `ffn_norm`, `ffn`.
    Source: Nagrani et al., "Attention bottlenecks for multimodal fusion", 2021.
    """

    def __init__(
        self,
        dim: int,
        modalities: int = 2,
        *,
        tokens: int = 4,
        layers: int = 1,
        heads: int = 8,
        ffn_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: Any = {"device": device, "dtype": dtype}
        self.dim, self.modalities = check_count("dim", dim), check_count("modalities", modalities, 2)
        check_heads(dim, check_count("heads", heads), None)
        check_probability("dropout", dropout)
        width = 4 * dim if ffn_dim is None else check_count("ffn_dim", ffn_dim)
        self.bottleneck = nn.Parameter(torch.empty(1, check_count("tokens", tokens), dim, **place))
        nn.init.normal_(self.bottleneck, std=0.02)
        self.layers = nn.ModuleList(
            [
                nn.ModuleList([_Layer(dim, heads, width, bias, dropout, backend, place) for _ in range(modalities)])
                for _ in range(check_count("layers", layers))
            ]
        )

    def forward(
        self, streams: Sequence[Tensor], *, lengths: Sequence[Tensor | None] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Every stream's tokens, (B, L_i, dim), and the bottleneck's, (B, tokens, dim), after the last layer.

        Args:
            streams: list of (B or 1, L_i, dim), one per modality.
            lengths: for each stream None or an integer tensor (B,): tokens from that index on are padding, which no
                token sees.
        """
        check_list("streams", streams, self.modalities)
        for i, x in enumerate(streams):
            check_tokens(f"streams[{i}]", x, self.dim)
        batches = [x.shape[0] for x in streams]
        batch = next((size for size in batches if size != 1), 1)
        if any(size not in (1, batch) for size in batches):
            raise ValueError(f"streams have batches of {batches}, expected one size, or 1")
        lengths = [None] * self.modalities if lengths is None else check_list("lengths", lengths, self.modalities)
        masks = [None if n is None else Mask.segments([Mask.key_lengths(n), None]) for n in lengths]
        tokens, bottleneck = list(streams), self.bottleneck
        for group in self.layers:
            pairs = [layer([x, bottleneck], mask) for layer, x, mask in zip(group.children(), tokens, masks)]
            tokens = [x for x, _ in pairs]
            bottleneck = functools.reduce(torch.add, (own for _, own in pairs)) / self.modalities
        return [x.expand(batch, -1, -1) for x in tokens], bottleneck

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"dim={self.dim}, modalities={self.modalities}, tokens={self.bottleneck.shape[1]}"


class _Layer(Backed, nn.Module):
    """Pre-norm Transformer layer over one sequence that comes in segments, (B or 1, L_s, dim) each."""

    def __init__(
        self, dim: int, heads: int, ffn_dim: int, bias: bool, dropout: float, backend: str | None, place: Any
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.backend = heads, dropout, backend
        self.norm = nn.LayerNorm(dim, **place)
        self.qkv = nn.Linear(dim, 3 * dim, bias, **place)
        self.out = nn.Linear(dim, dim, bias, **place)
        self.ffn_norm = nn.LayerNorm(dim, **place)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim, bias, **place), nn.GELU(), nn.Linear(ffn_dim, dim, bias, **place)
        )

    def forward(self, segments: Sequence[Tensor], mask: Mask | None) -> list[Tensor]:
        queries, keys, values = zip(*(split_heads(self.qkv(self.norm(x)), self.heads, 3) for x in segments))
        attended = joint_attention(
            queries,
            keys,
            values,
            mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            backend=self.backend,
        )
        out = [x + self.out(merge_heads(a)) for x, a in zip(segments, attended, strict=True)]
        return [x + self.ffn(self.ffn_norm(x)) for x in out]
