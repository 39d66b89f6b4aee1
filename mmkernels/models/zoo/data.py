"""Where a run's data comes from: the one place that knows which source fits which tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmkernels.models import sources
from mmkernels.models.config import AudioConfig, SystemConfig, VideoConfig
from mmkernels.models.recipe import DataConfig
from mmkernels.models.sources.task import clip_task, sound_task, task_of
from mmkernels.models.zoo.task import Task, openmoji_task

EMOJI, SOUNDS = "openmoji", "sounds"
TEXT_ALONE_SIDE = 32  # pixels of pictures that no tower looks at


def data_of(config: SystemConfig, name: str | None = None, languages: tuple[str, ...] = ()) -> DataConfig:
    """The data of a name or a folder; without one, what a system is usually trained on."""
    if name is None:
        name = SOUNDS if isinstance(config.image, AudioConfig) else EMOJI
    return DataConfig(name if name in (*sources.NAMES, SOUNDS) else str(Path(name).resolve()), languages)


def task_and_notes(config: SystemConfig, data: DataConfig) -> tuple[Task, list[str]]:
    """What a system is trained and judged on, at its size, and notes on what was left out.

    Raises:
        ValueError: no such data, nothing usable in it, or it is not what this system's tower takes; in one sentence.
    """
    image = config.image
    if isinstance(image, AudioConfig) != (data.name == SOUNDS):
        if data.name == SOUNDS:
            raise ValueError(f"data must be pictures for a system that sees, got {data.name!r}")
        raise ValueError(f"data must be {SOUNDS!r} for a system that hears, got {data.name!r}")
    if data.languages and data.name != "tuxpaint":
        raise ValueError(f"languages are those of tuxpaint's captions, {data.name} has no choice of them")
    if isinstance(image, AudioConfig):
        return sound_task(), []
    side = TEXT_ALONE_SIDE if image is None else image.side
    if data.name == EMOJI and not isinstance(image, VideoConfig):
        return openmoji_task(side), []
    options: dict[str, Any] = {"languages": data.languages} if data.languages else {}
    found = sources.load(data.name, size=side, **options)
    task = clip_task(found, image.frames) if isinstance(image, VideoConfig) else task_of(found)
    return task, found.notes
