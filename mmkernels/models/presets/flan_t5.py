"""FLAN-T5: text to text, with a bias for the distance of two words in place of positions.

Sources: Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020;
Shazeer, "GLU variants improve Transformer", 2020; Chung et al., "Scaling instruction-finetuned language models", 2022.
"""

from dataclasses import replace

from mmkernels.models.config import DecoderConfig, SystemConfig, TextConfig, TransformerConfig
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig


def system(blocks: TransformerConfig, vocabulary: int | None = None) -> SystemConfig:
    """Encoder and decoder of the same size over one embedding of words."""
    text = TextConfig(blocks, position="relative", pad=None)
    decoder = DecoderConfig(replace(text, causal=True), look="cross")
    return SystemConfig(text=text, decoder=decoder, vocabulary=vocabulary, shared_words=True)


def t5_blocks(width: int, heads: int, layers: int, mlp: int, head_dim: int) -> TransformerConfig:
    """RMSNorm, GEGLU, no biases, logits that are not scaled."""
    return TransformerConfig(
        width, heads, layers, mlp, head_dim, activation="gelu_tanh", gated=True, norm="rms", norm_eps=1e-6, bias=False,
        scale=1.0,
    )  # fmt: skip


PAGE = Page(
    name="flan-t5",
    small=system(t5_blocks(128, 4, 2, 256, 32)),
    recipe=TrainConfig((("text_to_text", 1.0),)),
    published={
        "small": system(t5_blocks(512, 6, 8, 1024, 64), 32128),
        "base": system(t5_blocks(768, 12, 12, 2048, 64), 32128),
        "large": system(t5_blocks(1024, 16, 24, 2816, 64), 32128),
        "xl": system(t5_blocks(2048, 32, 24, 5120, 64), 32128),
        "xxl": system(t5_blocks(4096, 64, 24, 10240, 64), 32128),
    },
)
