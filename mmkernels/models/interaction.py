"""Cross-modal interaction: who looks at whom, once each modality has tokens of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.models.config import CoAttentionConfig, SingleStreamConfig, TransformerConfig
from mmkernels.models.transformer import CrossBlock, TransformerBlock, make_norm
from mmkernels.nn import GatedCrossAttention

OPEN_GATE = 1.0  # tanh(1) = 0.76: trained from scratch, the picture must be seen from the first step on


class InteractionBlock(TransformerBlock):
    """Self-attention, gated cross-attention to the image tokens, MLP."""

    def __init__(self, config: TransformerConfig, backend: str | None) -> None:
        super().__init__(config, backend)
        self.look = GatedCrossAttention(
            config.width, heads=config.heads, ffn_dim=0, bias=True, dropout=config.dropout, backend=backend
        )
        nn.init.constant_(self.look.attention_gate, OPEN_GATE)

    def forward(self, x: Tensor, mask: Mask, images: Tensor) -> Tensor:  # type: ignore[override]
        """x (B * k, L, width): k texts about each of the images (B, N, width), following each other.

        The k texts of an image stand side by side as its queries, so that its keys and values are projected and read
        once, not k times.
        """
        x = self.attend(x, mask)
        together = x.reshape(len(images), -1, x.shape[-1])
        x = self.look(together, images).view_as(x)
        return self.think(x)


class SingleStream(nn.Module):
    """One Transformer over the tokens of all modalities, which stay segments: their concatenation is never built.

    Every segment is projected to the stream's width where it has another, and told apart by an embedding of its kind.
    Sources: Chen et al., "UNITER: universal image-text representation learning", 2020; Li et al., "Oscar:
    object-semantics aligned pre-training for vision-language tasks", 2020.
    """

    def __init__(self, config: SingleStreamConfig, widths: Sequence[int], backend: str | None) -> None:
        super().__init__()
        width = config.blocks.width
        self.enter = nn.ModuleList(nn.Identity() if w == width else nn.Linear(w, width) for w in widths)
        self.kind = nn.Parameter(torch.randn(len(widths), width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(config.blocks, backend) for _ in range(config.blocks.layers))
        self.norm = make_norm(config.blocks) if config.blocks.norm_first else nn.Identity()

    def forward(self, segments: Sequence[Tensor], lengths: Sequence[Tensor | None]) -> list[Tensor]:
        """Segments (B, L_s, widths[s]), of which the first lengths[s][b] tokens are real (None: all)."""
        x = [enter(segment) + kind for enter, segment, kind in zip(self.enter, segments, self.kind, strict=True)]
        mask = Mask.segments([None if n is None else Mask.key_lengths(n) for n in lengths])
        for block in self.blocks:
            x = block(x, mask)
        return [self.norm(segment) for segment in x]


class CoAttentionLayer(nn.Module):
    """Each stream looks at the other, then at itself."""

    def __init__(self, config: CoAttentionConfig, backend: str | None) -> None:
        super().__init__()
        text, image, heads, head_dim = config.text, config.image, config.heads, config.head_dim
        self.text_look = CrossBlock(text, image.width, backend, heads=heads, head_dim=head_dim)
        self.image_look = CrossBlock(image, text.width, backend, heads=heads, head_dim=head_dim)
        self.text = TransformerBlock(text, backend)
        self.image = TransformerBlock(image, backend)

    def forward(self, words: Tensor, pictures: Tensor, real: Mask) -> tuple[Tensor, Tensor]:
        seen, read = self.text_look(words, pictures), self.image_look(pictures, words, real)
        return self.text(seen, real), self.image(read)


class CoAttention(nn.Module):
    """Two streams that exchange keys and values. Source: Lu et al., "ViLBERT", 2019."""

    def __init__(self, config: CoAttentionConfig, widths: Sequence[int], backend: str | None) -> None:
        super().__init__()
        targets = (config.text.width, config.image.width)
        self.enter = nn.ModuleList(nn.Identity() if w == t else nn.Linear(w, t) for w, t in zip(widths, targets))
        self.layers = nn.ModuleList(CoAttentionLayer(config, backend) for _ in range(config.layers))
        self.norms = nn.ModuleList(
            make_norm(blocks) if blocks.norm_first else nn.Identity() for blocks in (config.text, config.image)
        )

    def forward(self, segments: Sequence[Tensor], lengths: Sequence[Tensor | None]) -> list[Tensor]:
        """Words (B, L, widths[0]), of which lengths[0] are real, and picture tokens (B, N, widths[1])."""
        words, pictures = (enter(segment) for enter, segment in zip(self.enter, segments, strict=True))
        if lengths[0] is None:
            raise ValueError("lengths[0] must be a tensor, the number of real words of each text, got None")
        real = Mask.key_lengths(lengths[0])
        for layer in self.layers:
            words, pictures = layer(words, pictures, real)
        return [norm(stream) for norm, stream in zip(self.norms, (words, pictures))]
