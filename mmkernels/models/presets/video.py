"""Video: a causal text model that tells what each frame of a clip shows, looking at the frame at hand alone.

The layers are Flamingo's (Alayrac et al., "Flamingo: a visual language model for few-shot learning", 2022), whose
videos are frames too; the mask is `Mask.media`. A class of the clip, read off its frames' vectors side by side, keeps
their order. Clips are synthesised of any source's pictures (docs/data.md): no camera took them.
"""

from mmkernels.models.config import (
    CnnConfig,
    DecoderConfig,
    SystemConfig,
    TextConfig,
    TransformerConfig,
    VideoConfig,
)
from mmkernels.models.presets import flamingo
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig


def published(name: str) -> SystemConfig:
    """Flamingo's over eight frames, the number that it was trained with."""
    config = flamingo.PAGE.published[name]
    return SystemConfig(
        image=VideoConfig(config.image, frames=8),  # type: ignore[arg-type]
        decoder=config.decoder,
        vocabulary=config.vocabulary,
    )


PAGE = Page(
    name="video",
    small=SystemConfig(
        image=VideoConfig(CnnConfig(), frames=3),
        decoder=DecoderConfig(TextConfig(TransformerConfig(layers=2), causal=True)),
    ),
    recipe=TrainConfig((("narration", 1.0), ("classification", 1.0)), batch=24, rate=2e-3, text_tokens=20),
    published={"3B": published("3B")},
)
