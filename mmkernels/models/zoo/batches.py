"""Batches of a run as a pure function of (seed, index): a resumed run sees what it would have seen."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkernels.models.batches import Epochs, randomness
from mmkernels.models.config import SystemConfig
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tokenizer import Tokens
from mmkernels.models.zoo.objectives.base import Objective
from mmkernels.models.zoo.task import Task


class Pairs(NamedTuple):
    """Pictures and what is said of them. `texts` is what a text tower reads, `names` the main captions."""

    pictures: Tensor  # (B, 3, S, S)
    texts: Tokens
    tags: Tokens
    names: Tokens
    labels: Tensor  # (B,), UNKNOWN for none


class Batch(NamedTuple):
    """One micro-batch: the pairs, where an objective wants them, and what each objective drew, by its name."""

    pairs: Pairs | None
    drawn: dict[str, Any]


@dataclass
class Draw:
    """What an objective draws from. `rows` are the pictures of `pairs`; its own randomness, nobody else's."""

    task: Task
    config: SystemConfig
    recipe: TrainConfig
    rows: list[int]
    pairs: Pairs | None
    rng: random.Random
    generator: torch.Generator


class Batches:
    """Makes the batches of one side of a task.

    Args:
        held_out: batches of the held-out side, as training would see them.

    Raises:
        ValueError: fewer rows than a batch has.
    """

    def __init__(
        self, task: Task, config: SystemConfig, recipe: TrainConfig, objectives: Sequence[Objective], seed: int,
        held_out: bool = False,
    ) -> None:  # fmt: skip
        self.task, self.config, self.recipe, self.objectives = task, config, recipe, objectives
        self.held_out = held_out
        self.seed = f"{seed}/held out" if held_out else f"{seed}"
        rows = task.held_out if held_out else task.train
        batch = min(recipe.batch, len(rows) // recipe.media * recipe.media) if held_out else recipe.batch
        if not 0 < batch <= len(rows):
            side = "held out" if held_out else "in training"
            raise ValueError(f"a batch has {recipe.batch} pairs, but there are {len(rows)} {side}")
        self._epochs = Epochs(rows, batch, f"{self.seed}/epoch")

    def batch(self, index: int) -> Batch:
        """The micro-batch of this number."""
        rows, pairs = [], None
        if any(objective.pairs for objective in self.objectives):
            rows = self._epochs.rows(index)
            pairs = self._pairs(rows, *randomness(f"{self.seed}/pairs/{index}"))
        drawn = {}
        for objective in self.objectives:
            random_pair = randomness(f"{self.seed}/{objective.name}/{index}")
            draw = Draw(self.task, self.config, self.recipe, rows, pairs, *random_pair)
            drawn[objective.name] = objective.draw(draw, self.held_out)
        return Batch(pairs, drawn)

    def _pairs(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> Pairs:
        task, length = self.task, self.recipe.text_tokens
        said = [self._noisy(i, rng) for i in rows]
        names = [task.captions[i][0] for i in said]
        if self.config.tagged:
            texts = names  # the tags stand in a segment of their own
        else:
            texts = [task.training_text(i, rng) for i in said]
        return Pairs(
            pictures=task.views(rows, generator),
            texts=self._encode(texts, length),
            tags=self._encode(task.tag_texts(rows), length),
            names=self._encode(names, length),
            labels=task.label_of[rows],
        )

    def _noisy(self, row: int, rng: random.Random) -> int:
        """Whose text a picture gets: its own, or by the recipe's noise any other's."""
        if self.recipe.noise and not self.held_out and rng.random() < self.recipe.noise:
            return rng.choice(self.task.train)
        return row

    def _encode(self, texts: list[str], length: int) -> Tokens:
        return self.task.encode(texts, length, whole=self.recipe.compile)
