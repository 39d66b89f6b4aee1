"""ALIGN: a convolutional image tower and a BERT, compared by their vectors, from noisy captions.

Source: Jia et al., "Scaling up visual and vision-language representation learning with noisy text supervision", 2021.
A tenth of the captions are of other pictures here, as on the web. The published image tower is an EfficientNet-B7 (Tan
and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019, whose table 1 is B0 here); the
text tower is a BERT-base, as in the open model.
"""

import math
from dataclasses import replace

from mmkernels.models.config import CnnConfig, ContrastiveConfig, SystemConfig, TextConfig, TransformerConfig
from mmkernels.models.efficient_net import EfficientNetConfig, StageConfig
from mmkernels.models.presets.bert import VOCABULARY, bert_text
from mmkernels.models.presets.clip import CAPTIONER
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig

B0 = (
    StageConfig(16, 1, 3, 1, expand=1), StageConfig(24, 2, 3, 2), StageConfig(40, 2, 5, 2), StageConfig(80, 3, 3, 2),
    StageConfig(112, 3, 5, 1), StageConfig(192, 4, 5, 2), StageConfig(320, 1, 3, 1),
)  # fmt: skip
B0_STEM = 32


def scaled_channels(channels: int, width: float, divisor: int = 8) -> int:
    """Channels times a width, to the nearest multiple of the divisor, but never down by more than a tenth."""
    wanted = channels * width
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


def scaled_stages(
    stages: tuple[StageConfig, ...], width: float, depth: float, divisor: int = 8
) -> tuple[StageConfig, ...]:
    """Stages of a wider and deeper network of the family."""
    return tuple(
        replace(stage, channels=scaled_channels(stage.channels, width, divisor), blocks=math.ceil(depth * stage.blocks))
        for stage in stages
    )


def published(width: float, depth: float, side: int) -> SystemConfig:
    """The image tower of these coefficients beside BERT-base; pictures' vectors are not projected."""
    image = EfficientNetConfig(scaled_stages(B0, width, depth), scaled_channels(B0_STEM, width), side)
    space = ContrastiveConfig(image.width, scale=1.0, largest_scale=None, temperature=True, project_image=False)
    return SystemConfig(image=image, text=bert_text(768, 12, 12), contrastive=space, vocabulary=VOCABULARY)


PAGE = Page(
    name="align",
    small=SystemConfig(
        image=CnnConfig(),
        text=TextConfig(TransformerConfig(layers=1)),
        decoder=CAPTIONER,
    ),
    recipe=TrainConfig((("contrastive", 1.0),), rate=2e-3, noise=0.1),
    published={"base": published(2.0, 3.1, 600)},
)
