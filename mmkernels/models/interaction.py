"""Cross-modal interaction: words attend to each other, and through a gate to the picture."""

from __future__ import annotations

from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.models.presets import ModelConfig
from mmkernels.nn import GatedCrossAttention, SelfAttention

OPEN_GATE = 1.0  # tanh(1) = 0.76: trained from scratch, the picture must be seen from the first step on


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, config: ModelConfig, backend: str | None) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.heads, dropout=config.dropout, backend=backend)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_ratio * width), nn.GELU(), nn.Linear(config.mlp_ratio * width, width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x (B, L, width), of which the first lengths[b] tokens are real."""
        x = self.attend(x, Mask.key_lengths(lengths))
        return self.think(x)

    def attend(self, x: Tensor, mask: Mask) -> Tensor:
        """The self-attention half."""
        return x + self.dropout(self.attention(self.attention_norm(x), mask=mask))

    def think(self, x: Tensor) -> Tensor:
        """The MLP half."""
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class InteractionBlock(TransformerBlock):
    """Self-attention, gated cross-attention to the image tokens, MLP."""

    def __init__(self, config: ModelConfig, backend: str | None) -> None:
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
