"""ViT: classes of pictures from their patches.

Source: Dosovitskiy et al., "An image is worth 16x16 words", 2021 (its table 1).
"""

from mmkernels.models.config import SystemConfig, TransformerConfig, VitConfig
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig


def published(width: int, heads: int, layers: int, patch: int) -> SystemConfig:
    """For pictures of 224 x 224 and the 1,000 classes of ImageNet."""
    blocks = TransformerConfig(width, heads, layers, 4 * width, norm_eps=1e-12)
    return SystemConfig(image=VitConfig(blocks, 224, patch, pool="class"), classes=1000)


PAGE = Page(
    name="vit",
    small=SystemConfig(image=VitConfig(TransformerConfig(layers=3), pool="class")),
    recipe=TrainConfig((("classification", 1.0),)),
    published={
        "base": published(768, 12, 12, 16),
        "base-32": published(768, 12, 12, 32),
        "large": published(1024, 16, 24, 16),
        "huge": published(1280, 16, 32, 14),
    },
)
