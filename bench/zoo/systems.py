"""What is measured: the published sizes of the zoo's presets with fewer layers, on noise and random words."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmkernels.models import presets
from mmkernels.models.audio import RATE
from mmkernels.models.config import (
    AudioConfig,
    CnnConfig,
    CoAttentionConfig,
    DecoderConfig,
    SystemConfig,
    TransformerConfig,
    VideoConfig,
)
from mmkernels.models.presets.bert import bert_text
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.sources.clips import NEXT_FRAME
from mmkernels.models.tokenizer import WordTokenizer
from mmkernels.models.zoo.task import Task

LAYERS = 2
VOCABULARY, WORDS = 8192, 2000  # rows of the embeddings; different words of the texts
ROWS = 32
CLASSES = 100
# Seconds of attention are what is compared, and ALIGN's published image tower is none of the zoo's parts.
ALIGN = SystemConfig(image=CnnConfig(256, (64, 128), 64), text=bert_text(768, 12, 12))


@dataclass(frozen=True)
class Size:
    """A preset as it is measured. `tokens`: of the longest text."""

    preset: str
    batch: int
    tokens: int
    layers: int = LAYERS
    frames: int | None = None


SIZES = {
    size.preset.partition(":")[0]: size
    for size in (
        Size("clip:ViT-B-16", 4, 77),
        Size("align", 8, 64),
        Size("vit:base", 4, 16),
        Size("bert:base", 4, 256),
        Size("flan-t5:base", 4, 128),
        Size("uniter:base", 8, 64),
        Size("oscar:base", 8, 64),
        Size("vilbert:base", 4, 64),
        Size("flamingo:3B", 4, 48, layers=1),
        Size("video:3B", 2, 96, layers=1, frames=4),
        Size("audio:base", 4, 48),
    )
}


def setup(size: Size, layers: int | None = None, batch: int | None = None) -> tuple[SystemConfig, TrainConfig]:
    """The system and how a step of it is made: the preset's own objectives, batches and texts of this size."""
    page, config = presets.find(size.preset)
    config = replace(shallow(ALIGN if page.name == "align" else config, layers or size.layers), vocabulary=VOCABULARY)
    if size.frames is not None:
        assert isinstance(config.image, VideoConfig), "only clips have frames"
        config = replace(config, image=replace(config.image, frames=size.frames))
    media = 2 if page.recipe.media > 1 else 1
    recipe = replace(
        page.recipe, batch=batch or size.batch, media=media, text_tokens=size.tokens, noise=0.0, negatives="batch"
    )
    return replace(config, classes=CLASSES), recipe


def shallow(value: Any, layers: int) -> Any:
    """A configuration with at most so many layers in every part of it."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    inside = {f.name: shallow(getattr(value, f.name), layers) for f in fields(value)}
    if isinstance(value, (TransformerConfig, CoAttentionConfig)):
        inside["layers"] = min(value.layers, layers)
    if isinstance(value, DecoderConfig):
        inside["resampler_layers"] = min(value.resampler_layers, layers)
    return replace(value, **inside)


@dataclass(frozen=True)
class Noise:
    """Media of a shape whose every element is drawn from [0, 1)."""

    shape: tuple[int, ...]

    def plain(self, rows: list[int]) -> Tensor:
        """(n, *shape)."""
        return self.views(rows, torch.Generator().manual_seed(0))

    def views(self, rows: list[int], generator: torch.Generator) -> Tensor:
        """(n, *shape)."""
        return torch.rand(len(rows), *self.shape, generator=generator)

    def shown(self, medium: Tensor) -> Tensor:
        """Nobody looks at it."""
        raise NotImplementedError


def noise_task(config: SystemConfig, tokens: int) -> Task:
    """Texts of random words, from half of the tokens to all of them, about noise."""
    rng = random.Random(0)
    known = [f"word{i}" for i in range(WORDS)]

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(known, k=rng.randint(least, most)))

    frames = config.image.frames if isinstance(config.image, VideoConfig) else 1
    parts = [[text(max(1, tokens // 2 // frames), max(1, tokens // frames - 2)) for _ in range(frames)]
             for _ in range(2 * ROWS)]  # fmt: skip
    texts = [f" {NEXT_FRAME} ".join(part) for part in parts]
    return Task(
        media=Noise(shape_of(config)),
        captions=[(entry,) for entry in texts],
        tags=[tuple(rng.choices(known, k=6)) for _ in texts],
        labels=[f"class{i % CLASSES}" for i in range(2 * ROWS)],
        train=list(range(ROWS)),
        held_out=list(range(ROWS, 2 * ROWS)),
        tokenizer=WordTokenizer.train([*texts, *known, *(f"class{i}" for i in range(ROWS))]),
        fingerprint="noise",
        narrations=texts,
    )


def shape_of(config: SystemConfig) -> tuple[int, ...]:
    """Of what the system's tower takes, without the batch."""
    image = config.image
    if isinstance(image, AudioConfig):
        return (int(image.seconds * RATE),)
    side = 8 if image is None else image.side
    return (image.frames, 3, side, side) if isinstance(image, VideoConfig) else (3, side, side)
