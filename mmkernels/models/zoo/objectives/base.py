"""What an objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmkernels.models.config import SystemConfig
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.zoo.objectives.outputs import Outputs, Predictions

if TYPE_CHECKING:
    from mmkernels.models.zoo.batches import Draw, Pairs
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task

CHUNK = 128  # pictures or texts that an evaluation sends through a model at once


@dataclass(frozen=True)
class Score:
    """One figure of an evaluation beside what guessing, and the most frequent answer, would reach; per cent."""

    measure: str
    model: float
    chance: float
    majority: float | None = None

    @property
    def baseline(self) -> float:
        """The better of chance and majority."""
        return max(self.chance, self.majority or 0.0)


@dataclass(frozen=True)
class Example:
    """What a system says of the picture of a row, beside the truth."""

    row: int
    truth: str
    said: str


@dataclass(frozen=True)
class Side:
    """What is judged on: rows of a task, and their pictures, (n, 3, S, S)."""

    name: str  # "held_out" or "known_views"
    rows: list[int]
    pictures: Tensor


class Seen:
    """Pairs on their way through a system: what several objectives want of the towers is computed once."""

    def __init__(self, system: System, pairs: Pairs | None, recipe: TrainConfig) -> None:
        self._system, self._pairs, self.recipe = system, pairs, recipe
        self._pictures: Tensor | None = None
        self._words: Tensor | None = None

    @property
    def pairs(self) -> Pairs:
        """The pairs."""
        assert self._pairs is not None, "an objective without pairs asks for them"
        return self._pairs

    def pictures(self) -> Tensor:
        """Tokens of the pictures, (B, N, width)."""
        if self._pictures is None:
            self._pictures = self._system.see(self.pairs.pictures)
        return self._pictures

    def words(self) -> Tensor:
        """Tokens of the texts, (B, L, width)."""
        if self._words is None:
            self._words = self._system.read(self.pairs.texts)
        return self._words


class Objective(ABC):
    """Something to learn: what it draws, which head it adds, what it minimises, how it is judged."""

    name: str
    pairs = True  # whether it is about pictures and what is said of them
    writes = False  # whether it needs the decoder
    beside: str | None = None  # the objective whose head it learns, which must be learnt too

    @abstractmethod
    def missing(self, config: SystemConfig) -> str | None:
        """Which part a system lacks for it, as a noun phrase; None: it can learn this."""

    def head(self, system: System) -> nn.Module | None:
        """What it adds to a system."""
        return None

    def draw(self, draw: Draw, held_out: bool) -> Any:
        """Its own part of a batch: tensors, tokens, or tuples of such."""
        return None

    @abstractmethod
    def loss(self, system: System, seen: Seen, drawn: Any) -> Tensor:
        """A scalar."""

    @abstractmethod
    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Figures of a trained system on one side; the first is the one that the objective is about."""

    def examples(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Example]:
        """What it says of each picture of a side, where that is something to look at."""
        return []


class Imitable(Objective):
    """An objective whose loss comes from outputs that a student can learn to say as its teacher does."""

    @abstractmethod
    def outputs(self, system: System, seen: Seen, drawn: Any) -> Outputs:
        """What the system says of a batch."""

    @abstractmethod
    def loss_of(self, outputs: Any, system: System, recipe: TrainConfig) -> Tensor:
        """The loss of what it says, a scalar."""

    def loss(self, system: System, seen: Seen, drawn: Any) -> Tensor:
        return self.loss_of(self.outputs(system, seen, drawn), system, seen.recipe)


class Predicting(Imitable):
    """An objective whose loss is the cross entropy of predictions."""

    @abstractmethod
    def outputs(self, system: System, seen: Seen, drawn: Any) -> Predictions: ...

    def loss_of(self, outputs: Predictions, system: System, recipe: TrainConfig) -> Tensor:
        return outputs.cross_entropy()


def in_chunks(function: Callable[..., Tensor], *columns: Any) -> Tensor:
    """function(*columns), CHUNK rows at a time; a column is a tensor, Tokens, or None."""
    count = next(len(column if isinstance(column, Tensor) else column[0]) for column in columns if column is not None)

    def part(column: Any, at: int) -> Any:
        if column is None or isinstance(column, Tensor):
            return column if column is None else column[at : at + CHUNK]
        return type(column)(*(entry[at : at + CHUNK] for entry in column))

    return torch.cat([function(*(part(column, at) for column in columns)) for at in range(0, count, CHUNK)])
