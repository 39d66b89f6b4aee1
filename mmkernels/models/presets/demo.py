"""The demo: what its model is, and how it learns."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmkernels.models.config import CnnConfig, TextConfig, TransformerConfig

MAX_TEXT = 40


@dataclass(frozen=True)
class ModelConfig:
    """The size of the model."""

    width: int = 128  # features of every token, image or text
    heads: int = 4
    stem: tuple[int, int] = (32, 64)  # channels of the image tower before it reaches `width`
    text_layers: int = 1
    caption_layers: int = 2
    answer_layers: int = 2
    mlp_ratio: int = 3
    dropout: float = 0.0

    @property
    def blocks(self) -> TransformerConfig:
        """The layers of texts, captions and questions."""
        mlp = self.mlp_ratio * self.width
        return TransformerConfig(self.width, self.heads, self.text_layers, mlp, dropout=self.dropout)

    @property
    def text(self) -> TextConfig:
        """The text tower."""
        return TextConfig(self.blocks, length=MAX_TEXT)

    def image(self, side: int) -> CnnConfig:
        """The image tower for pictures of this size."""
        return CnnConfig(self.width, self.stem, side)


@dataclass(frozen=True)
class Recipe:
    """How the model learns: two stages, "pretrain" (retrieval, captions, labels), then "vqa" (questions on grids)."""

    batch: int = 64  # pairs a step
    captions: int = 32  # of them, those that are captioned too
    grids: int = 48  # scenes a step, four questions each
    pretrain_rate: float = 2e-3
    vqa_rate: float = 1e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    warm_up: float = 0.1  # share of a stage's steps
    contrastive_smoothing: float = 0.0
    caption_weight: float = 1.0
    caption_smoothing: float = 0.05
    subgroup_weight: float = 0.5
    tag_weight: float = 0.5
    caption_tokens: int = 12  # <bos> and <eos> included
    text_tokens: int = 14
    question_tokens: int = 16
    eval_tokens: int = 16


@dataclass(frozen=True)
class Plan:
    """How many steps each stage has. A run is reproducible because its plan is fixed before it starts."""

    pretrain: int
    vqa: int

    @property
    def total(self) -> int:
        return self.pretrain + self.vqa


DEMO_MODEL = ModelConfig()
TINY_MODEL = ModelConfig(width=32, heads=2, stem=(8, 16), caption_layers=1, answer_layers=1)
DEMO_RECIPE = Recipe()
TINY_RECIPE = Recipe(batch=16, captions=8, grids=4)
PRESETS = {"demo": (DEMO_MODEL, DEMO_RECIPE), "tiny": (TINY_MODEL, TINY_RECIPE)}

PRETRAIN_SHARE = 0.7  # of the steps; a step on grids takes more than twice as long


def plan_for_steps(steps: int) -> Plan:
    """Shares a number of steps between the stages."""
    if steps < 2:
        raise ValueError(f"steps must be at least 2, one for each stage, got {steps}")
    pretrain = min(steps - 1, max(1, round(steps * PRETRAIN_SHARE)))
    return Plan(pretrain, steps - pretrain)


def plan_for_seconds(seconds: float, pretrain_step: float, vqa_step: float) -> Plan:
    """As many steps as fit a time, given how long a step of each stage takes.

    The stages' shares stay as they are: a measurement disturbed on a busy machine makes a run shorter, not lopsided.
    """
    if seconds <= 0:
        raise ValueError(f"the time to train must be positive, got {seconds} seconds")
    step = PRETRAIN_SHARE * pretrain_step + (1 - PRETRAIN_SHARE) * vqa_step
    return plan_for_steps(max(2, int(seconds / step)))


def configure(preset: str, dropout: float) -> tuple[ModelConfig, Recipe]:
    """A preset with another dropout.

    Raises:
        ValueError: no such preset, or dropout outside [0, 1).
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    config, recipe = PRESETS[preset]
    return replace(config, dropout=dropout), recipe
