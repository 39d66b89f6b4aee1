"""BERT: words from the words around them.

Source: Devlin et al., "BERT: pre-training of deep bidirectional Transformers for language understanding", 2019.
"""

from mmkernels.models.config import SystemConfig, TextConfig, TransformerConfig
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig


def bert_text(width: int, heads: int, layers: int) -> TextConfig:
    """Post-norm, 512 positions, two types of tokens; the first token stands for the text."""
    blocks = TransformerConfig(width, heads, layers, 4 * width, norm_eps=1e-12, norm_first=False)
    return TextConfig(blocks, length=512, pool="first", token_types=2, embedding_norm=True, final_norm=False)


VOCABULARY = 30522

PAGE = Page(
    name="bert",
    small=SystemConfig(
        text=TextConfig(
            TransformerConfig(layers=2, norm_first=False), pool="first", embedding_norm=True, final_norm=False
        )
    ),
    recipe=TrainConfig((("masked_words", 1.0),), batch=128),
    published={
        "base": SystemConfig(text=bert_text(768, 12, 12), vocabulary=VOCABULARY),
        "large": SystemConfig(text=bert_text(1024, 16, 24), vocabulary=VOCABULARY),
    },
)
