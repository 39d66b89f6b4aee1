"""Sizes and recipes: the demo's, and a page for every system of the zoo."""

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

__all__ = [
    "DEMO_MODEL",
    "DEMO_RECIPE",
    "MAX_TEXT",
    "PRESETS",
    "PRETRAIN_SHARE",
    "TINY_MODEL",
    "TINY_RECIPE",
    "ModelConfig",
    "Plan",
    "Recipe",
    "configure",
    "plan_for_seconds",
    "plan_for_steps",
]
