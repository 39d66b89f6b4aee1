"""UNITER: one Transformer over [words | picture tokens].

Source: Chen et al., "UNITER: universal image-text representation learning", 2020. Its regions come from a detector;
here tokens of a CNN stand for them, and at the published sizes embedded patches (Kim et al., "ViLT", 2021).
"""

from mmkernels.models.config import (
    CnnConfig,
    SingleStreamConfig,
    SystemConfig,
    TextConfig,
    TransformerConfig,
    VitConfig,
)
from mmkernels.models.presets.bert import VOCABULARY, bert_text
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig


def published(width: int, heads: int, layers: int, tags: bool = False) -> SystemConfig:
    """BERT's embeddings and layers, patches of 32 x 32."""
    blocks = TransformerConfig(width, heads, layers, 4 * width, norm_eps=1e-12, norm_first=False)
    patches = TransformerConfig(width, heads, 0, 4 * width, norm_eps=1e-12)
    return SystemConfig(
        image=VitConfig(patches, 224, 32),
        text=bert_text(width, heads, 0),
        interaction=SingleStreamConfig(blocks, tags),
        vocabulary=VOCABULARY,
    )


def small(tags: bool = False) -> SystemConfig:
    """Embedded words and the tokens of a CNN."""
    words = TextConfig(TransformerConfig(layers=0), final_norm=False)
    return SystemConfig(image=CnnConfig(), text=words, interaction=SingleStreamConfig(TransformerConfig(), tags))


PAGE = Page(
    name="uniter",
    small=small(),
    recipe=TrainConfig((("masked_words", 1.0),), rate=2e-3),
    published={"base": published(768, 12, 12), "large": published(1024, 16, 24)},
)
