"""Small tasks, and a trainer of any preset on the one that it is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mmkernels.models import presets
from mmkernels.models.config import AudioConfig, SystemConfig, VideoConfig
from mmkernels.models.corpus import Corpus
from mmkernels.models.sources import load
from mmkernels.models.sources.task import clip_task, sound_task
from mmkernels.models.zoo.task import Task, openmoji_task
from mmkernels.models.zoo.training import Setup, Trainer


@pytest.fixture(scope="session")
def task(corpus: Corpus) -> Task:
    """About 300 emoji."""
    return openmoji_task(32, corpus)


@pytest.fixture(scope="session")
def task_for(task: Task, cache_folder: Path) -> Callable[[SystemConfig], Task]:
    """What a system is about: about 300 emoji, clips of them, or sounds."""
    clips, sounds = cache(lambda: clip_task(load("openmoji", size=32, limit=300), 3)), cache(sound_task)

    def find(config: SystemConfig) -> Task:
        if isinstance(config.image, AudioConfig):
            return sounds()
        return clips() if isinstance(config.image, VideoConfig) else task

    return find


@pytest.fixture
def new_trainer(task_for: Callable[[SystemConfig], Task]) -> Callable[..., Trainer]:
    """new_trainer("clip", steps=2, objectives=..., ...): a preset at its small size, in small batches."""

    def make(
        preset: str, steps: int = 2, seed: int = 0, backend: str | None = None, config: SystemConfig | None = None,
        unlabelled: Sequence[int] = (), **changes: Any,
    ) -> Trainer:  # fmt: skip
        page, small = presets.find(preset)
        recipe = replace(page.recipe, **{"batch": 16, "grids": 4, **changes})
        config = small if config is None else config
        task = replace(task_for(config), unlabelled=list(unlabelled))
        return Trainer(task, Setup(preset, config, recipe, steps, seed, backend))

    return make
