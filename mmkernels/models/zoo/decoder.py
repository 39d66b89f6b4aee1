"""Writing with a look at something: T5's decoder, Flamingo's gated layers, a captioner for any image tower."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.models.backends import Backends
from mmkernels.models.config import DecoderConfig, TransformerConfig
from mmkernels.models.fusion import CaptionFusion
from mmkernels.models.tokenizer import Tokens
from mmkernels.models.towers import POSITION_STD, TextTower
from mmkernels.models.transformer import CrossBlock, TransformerBlock
from mmkernels.nn import GatedCrossAttention


class Context(NamedTuple):
    """What a text is about: tokens (B, N, width), which of them each word sees, and one vector (B, width)."""

    tokens: Tensor
    mask: Mask | None = None
    vector: Tensor | None = None


class Resampler(nn.Module):
    """A fixed number of tokens from any number: latents that look at the tokens and at themselves.

    Source: Alayrac et al., "Flamingo", 2022; Jaegle et al., "Perceiver", 2021.
    """

    def __init__(self, width: int, config: DecoderConfig, backend: str | None) -> None:
        super().__init__()
        blocks = config.text.blocks
        head_dim = blocks.head_dim or blocks.width // blocks.heads
        layers = TransformerConfig(width, blocks.heads, mlp=4 * width, head_dim=head_dim, dropout=blocks.dropout)
        self.latents = nn.Parameter(torch.randn(1, config.latents, width) * POSITION_STD)
        self.layers = nn.ModuleList(CrossBlock(layers, width, backend) for _ in range(config.resampler_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, latents, width)."""
        x = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            x = layer(x, [tokens, x])
        return self.norm(x)


class Decoder(nn.Module):
    """Next words of a text, given a context.

    Args:
        width: of the context.
        vocabulary: number of words.
        shared: whether the words come embedded by another tower.
    """

    def __init__(self, config: DecoderConfig, width: int, vocabulary: int, shared: bool, backends: Backends) -> None:
        super().__init__()
        self.config, blocks = config, config.text.blocks
        self.text = TextTower(config.text, None if shared else vocabulary, backends.attention)
        self.resampler = Resampler(width, config, backends.attention) if config.latents else None
        looks: list[nn.Module] = []
        for i in range(blocks.layers):
            if config.look == "cross":
                looks.append(CrossBlock(blocks, width, backends.attention, mlp=False))
            elif i % config.every == 0:
                looks.append(
                    GatedCrossAttention(
                        blocks.width, width, blocks.heads, ffn_dim=blocks.mlp, head_dim=blocks.head_dim,
                        dropout=blocks.dropout, backend=backends.attention,
                    )
                )  # fmt: skip
        for look in looks:
            if isinstance(look, GatedCrossAttention):
                nn.init.constant_(look.attention_gate, config.gate)
                nn.init.constant_(look.ffn_gate, config.gate)
        self.looks = nn.ModuleList(looks)
        self.fusion = CaptionFusion(blocks.width, width, backends.fusion) if config.fuse else None
        self.words = None if config.tied else nn.Linear(blocks.width, vocabulary, bias=False)

    def forward(self, tokens: Tokens, context: Context, embedding: nn.Embedding | None = None) -> Tensor:
        """tokens (B, L) -> logits (B, L, vocabulary); `embedding` where the words are another tower's."""
        embedding = self.text.embedding if embedding is None else embedding
        x, mask, bias = self.text.begin(tokens, embedding)
        if self.fusion is not None and context.vector is not None:
            x = self.fusion(x, context.vector)
        for i, block in enumerate(self.text.blocks):
            if self.config.look == "cross":
                assert isinstance(block, TransformerBlock)
                x = block.think(self.looks[i](block.attend(x, mask, bias), context.tokens, context.mask))
            else:
                if i % self.config.every == 0:
                    x = self.looks[i // self.config.every](x, context.tokens, mask=context.mask)
                x = block(x, mask, bias)
        x = self.text.norm(x)
        if self.words is not None:
            return self.words(x)
        return F.linear(x * x.shape[-1] ** -0.5 if self.config.tied_scale else x, embedding.weight)

    def resampled(self, tokens: Tensor) -> Tensor:
        """The tokens of pictures as the text looks at them."""
        return tokens if self.resampler is None else self.resampler(tokens)
