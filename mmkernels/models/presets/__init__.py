"""Sizes and recipes: the demo's, and a page for every system of the zoo."""

from mmkernels.models.config import SystemConfig
from mmkernels.models.presets import (
    align,
    audio,
    bert,
    clip,
    flamingo,
    flan_t5,
    oscar,
    uniter,
    video,
    vilbert,
    vit,
)
from mmkernels.models.presets.demo import (
    DEMO_MODEL,
    DEMO_RECIPE,
    MAX_TEXT,
    PRESETS,
    PRETRAIN_SHARE,
    TINY_MODEL,
    TINY_RECIPE,
    ModelConfig,
    Plan,
    Recipe,
    configure,
    plan_for_seconds,
    plan_for_steps,
)
from mmkernels.models.presets.page import Page

__all__ = [
    "DEMO_MODEL",
    "DEMO_RECIPE",
    "MAX_TEXT",
    "PAGES",
    "PRESETS",
    "PRETRAIN_SHARE",
    "TINY_MODEL",
    "TINY_RECIPE",
    "ModelConfig",
    "Page",
    "Plan",
    "Recipe",
    "configure",
    "find",
    "plan_for_seconds",
    "plan_for_steps",
]

PAGES: dict[str, Page] = {
    module.PAGE.name: module.PAGE
    for module in (clip, align, vit, bert, flan_t5, uniter, oscar, vilbert, flamingo, video, audio)
}


def find(name: str) -> tuple[Page, SystemConfig]:
    """The page and the configuration of "clip" (its small size) or "clip:ViT-B-32".

    Raises:
        ValueError: no such preset or size.
    """
    preset, _, size = name.partition(":")
    if preset not in PAGES:
        raise ValueError(f"preset must be one of {', '.join([*PRESETS, *PAGES])}, got {name!r}")
    page = PAGES[preset]
    if size and size not in page.published:
        known = ", ".join(page.published) or "none"
        raise ValueError(f"the published sizes of preset {preset} are {known}, got {size!r}")
    return page, page.published[size] if size else page.small
