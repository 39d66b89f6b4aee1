"""Oscar: UNITER with a third segment between words and regions, the tags of what is in the picture.

Source: Li et al., "Oscar: object-semantics aligned pre-training for vision-language tasks", 2020. Its tags come from a
detector; here they are the keywords that people gave the picture, so that they are always right.
"""

from mmkernels.models.presets import uniter
from mmkernels.models.presets.page import Page
from mmkernels.models.recipe import TrainConfig

PAGE = Page(
    name="oscar",
    small=uniter.small(tags=True),
    recipe=TrainConfig((("masked_words", 1.0),), rate=2e-3),
    published={"base": uniter.published(768, 12, 12, True), "large": uniter.published(1024, 16, 24, True)},
)
