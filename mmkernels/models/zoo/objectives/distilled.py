"""An objective that is learnt from the data and from a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkernels.models.config import SystemConfig
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.regimes import DistillationConfig
from mmkernels.models.zoo.objectives.base import Example, Imitable, Objective, Score, Seen, Side
from mmkernels.models.zoo.objectives.outputs import Outputs

if TYPE_CHECKING:
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task


class Taught(NamedTuple):
    """What the objective drew, and what the teacher says of it."""

    drawn: Any
    said: Outputs


class Distilled(Objective):
    """`(1 - weight) * the objective's loss + weight * imitation of the teacher`.

    The teacher speaks when a batch is drawn, so that what is minimised is a function of student and batch alone.

    Args:
        teacher: None where nothing is drawn.
    """

    def __init__(self, objective: Imitable, config: DistillationConfig, teacher: System | None = None) -> None:
        self.objective, self.config, self.teacher = objective, config, teacher
        self.name, self.pairs, self.writes = objective.name, objective.pairs, objective.writes

    def missing(self, config: SystemConfig) -> str | None:
        return self.objective.missing(config)

    def head(self, system: System) -> nn.Module | None:
        return self.objective.head(system)

    @torch.no_grad()
    def draw(self, draw: Draw, held_out: bool) -> Taught:
        assert self.teacher is not None, "batches are drawn with a teacher"
        drawn = self.objective.draw(draw, held_out)
        return Taught(drawn, self.objective.outputs(self.teacher, Seen(self.teacher, draw.pairs, draw.recipe), drawn))

    def loss(self, system: System, seen: Seen, drawn: Taught) -> Tensor:
        outputs = self.objective.outputs(system, seen, drawn.drawn)
        hard = self.objective.loss_of(outputs, system, seen.recipe)
        soft = outputs.imitation(drawn.said, self.config.temperature)  # type: ignore[arg-type]
        return (1 - self.config.weight) * hard + self.config.weight * soft

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        return self.objective.judge(system, task, side, recipe)

    def examples(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Example]:
        return self.objective.examples(system, task, side, recipe)
