"""Flamingo: a causal text model that looks, through gates, at several pictures, at each word the last one named.

Source: Alayrac et al., "Flamingo: a visual language model for few-shot learning", 2022 (its table 1). The published
image tower is an NFNet; CLIP's ViT-L/14 stands for it, as in Awadalla et al., "OpenFlamingo", 2023. From scratch,
gates start open, and the image tower, which would be pretrained, learns classes as well.
"""

from mmkernels.models.config import CnnConfig, DecoderConfig, SystemConfig, TextConfig, TransformerConfig
from mmkernels.models.presets import clip
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig


def published(width: int, heads: int, layers: int, every: int) -> SystemConfig:
    """A text model of Chinchilla's shapes, 64 latents a picture."""
    text = TextConfig(TransformerConfig(width, heads, layers, 4 * width), length=2048, causal=True)
    return SystemConfig(
        image=clip.PAGE.published["ViT-L-14"].image,
        decoder=DecoderConfig(text, every=every, gate=0.0, latents=64, resampler_layers=6),
        vocabulary=32000,
    )


PAGE = Page(
    name="flamingo",
    small=SystemConfig(
        image=CnnConfig(),
        decoder=DecoderConfig(TextConfig(TransformerConfig(layers=2), length=80, causal=True), latents=8),
    ),
    recipe=TrainConfig((("captioning", 1.0), ("classification", 1.0)), rate=2e-3, media=4),
    published={
        "3B": published(2048, 16, 24, 1),
        "9B": published(4096, 32, 40, 4),
        "80B": published(8192, 64, 80, 7),
    },
)
