"""Audio: a spectrogram tower and a text tower, compared by their vectors; and the class of a sound.

Sources: Gong et al., "AST: audio spectrogram transformer", 2021, for the tower (whose patches overlap; these do not);
Elizalde et al., "CLAP: learning audio concepts from natural language supervision", 2022, for the objective. Sounds are
synthesised (docs/data.md): no microphone heard them.
"""

from mmkernels.models.config import (
    AudioConfig,
    ContrastiveConfig,
    SystemConfig,
    TextConfig,
    TransformerConfig,
)
from mmkernels.models.presets.bert import VOCABULARY, bert_text
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig

PAGE = Page(
    name="audio",
    small=SystemConfig(
        image=AudioConfig(TransformerConfig(layers=2)),
        text=TextConfig(TransformerConfig(layers=1)),
    ),
    recipe=TrainConfig((("contrastive", 1.0), ("classification", 1.0)), batch=32, text_tokens=12),
    published={
        "base": SystemConfig(
            image=AudioConfig(TransformerConfig(768, 12, 12, 3072, norm_eps=1e-6), patch=(16, 16), seconds=10.24),
            text=bert_text(768, 12, 12),
            contrastive=ContrastiveConfig(1024, bias=False, scale=1 / 0.07, largest_scale=100.0),
            vocabulary=VOCABULARY,
            classes=527,
        ),
    },
)
