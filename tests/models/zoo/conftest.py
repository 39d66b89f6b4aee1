"""A small task, and a trainer of any preset on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mmkernels.models import presets
from mmkernels.models.config import SystemConfig
from mmkernels.models.corpus import Corpus
from mmkernels.models.zoo.task import Task, openmoji_task
from mmkernels.models.zoo.training import Setup, Trainer


@pytest.fixture(scope="session")
def task(corpus: Corpus) -> Task:
    """About 300 emoji."""
    return openmoji_task(32, corpus)


@pytest.fixture
def new_trainer(task: Task) -> Callable[..., Trainer]:
    """new_trainer("clip", steps=2, objectives=..., ...): a preset at its small size, in small batches."""

    def make(
        preset: str, steps: int = 2, seed: int = 0, backend: str | None = None, config: SystemConfig | None = None,
        **changes: Any,
    ) -> Trainer:  # fmt: skip
        page, small = presets.find(preset)
        recipe = replace(page.recipe, **{"batch": 16, "grids": 4, **changes})
        return Trainer(task, Setup(preset, small if config is None else config, recipe, steps, seed, backend))

    return make
