"""CLIP: a vision Transformer and a causal text Transformer, compared by their vectors.

Source: Radford et al., "Learning transferable visual models from natural language supervision", 2021 (its table 20).
The captioner is not part of it; it is there for those who ask for captioning as well.
"""

from mmkernels.models.config import (
    ContrastiveConfig,
    DecoderConfig,
    SystemConfig,
    TextConfig,
    TransformerConfig,
    VitConfig,
)
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig

SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of the published pictures
CAPTIONER = DecoderConfig(TextConfig(TransformerConfig(layers=2), causal=True), fuse=True)


def published(side: int, patch: int, width: int, layers: int, text_width: int, vector: int) -> SystemConfig:
    """Heads are 64 wide; the text tower has 12 layers, 77 positions and 49,408 words."""

    def blocks(width: int, layers: int) -> TransformerConfig:
        return TransformerConfig(width, width // 64, layers, 4 * width, activation="quick_gelu")

    return SystemConfig(
        image=VitConfig(
            blocks(width, layers), side, patch, pool="class", patch_bias=False, embedding_norm=True, mean=MEAN,
            spread=SPREAD,
        ),
        text=TextConfig(blocks(text_width, 12), length=77, causal=True, pool="last", pad=None),
        contrastive=ContrastiveConfig(vector, bias=False, scale=SCALE, largest_scale=LARGEST_SCALE),
        vocabulary=49408,
    )  # fmt: skip


PAGE = Page(
    name="clip",
    small=SystemConfig(
        image=VitConfig(TransformerConfig(layers=3)),
        text=TextConfig(TransformerConfig(layers=1), causal=True, pool="last"),
        decoder=CAPTIONER,
    ),
    recipe=TrainConfig((("contrastive", 1.0),)),
    published={
        "ViT-B-32": published(224, 32, 768, 12, 512, 512),
        "ViT-B-16": published(224, 16, 768, 12, 512, 512),
        "ViT-L-14": published(224, 14, 1024, 24, 768, 768),
        "ViT-L-14-336": published(336, 14, 1024, 24, 768, 768),
    },
)
