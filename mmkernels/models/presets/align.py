"""ALIGN: a convolutional image tower and a BERT, compared by their vectors, from noisy captions.

Source: Jia et al., "Scaling up visual and vision-language representation learning with noisy text supervision", 2021.
A tenth of the captions are of other pictures here, as on the web. The published image tower is an EfficientNet, which
is not one of these parts.
"""

from mmkernels.models.config import CnnConfig, SystemConfig, TextConfig, TransformerConfig
from mmkernels.models.presets.clip import CAPTIONER
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig

PAGE = Page(
    name="align",
    small=SystemConfig(
        image=CnnConfig(),
        text=TextConfig(TransformerConfig(layers=1)),
        decoder=CAPTIONER,
    ),
    recipe=TrainConfig((("contrastive", 1.0),), rate=2e-3, noise=0.1),
)
