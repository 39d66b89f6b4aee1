"""ViLBERT: a stream of words and a stream of regions that look at each other.

Source: Lu et al., "ViLBERT: pretraining task-agnostic visiolinguistic representations for vision-and-language tasks",
2019. The first six layers of BERT-base read the words alone; embedded patches stand for its detector's regions. From
scratch, the towers learn to match by the contrastive loss first (Li et al., "Align before fuse", 2021).
"""

from mmkernels.models.config import CnnConfig, CoAttentionConfig, SystemConfig, TextConfig, TransformerConfig, VitConfig
from mmkernels.models.presets.bert import VOCABULARY, bert_text
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig


def published() -> SystemConfig:
    """BERT-base beside a stream of 1,024 features in 8 heads, six times in exchange."""
    text = TransformerConfig(768, 12, 6, 3072, norm_eps=1e-12, norm_first=False)
    image = TransformerConfig(1024, 8, 6, 1024, norm_eps=1e-12, norm_first=False)
    return SystemConfig(
        image=VitConfig(TransformerConfig(1024, 8, 0, norm_eps=1e-12), 224, 32),
        text=bert_text(768, 12, 6),
        interaction=CoAttentionConfig(text, image, layers=6, heads=8, head_dim=128),
        vocabulary=VOCABULARY,
    )


PAGE = Page(
    name="vilbert",
    small=SystemConfig(
        image=CnnConfig(),
        text=TextConfig(TransformerConfig(layers=1)),
        interaction=CoAttentionConfig(layers=1),
    ),
    recipe=TrainConfig((("matching", 1.0), ("contrastive", 1.0)), batch=32, rate=2e-3, negatives="batch"),
    published={"base": published()},
)
