"""The class of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mmkernels.models.config import SystemConfig
from mmkernels.models.metrics import percent
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.zoo.objectives.base import Example, Predicting, Score, Seen, Side, in_chunks
from mmkernels.models.zoo.objectives.outputs import Predictions
from mmkernels.models.zoo.task import UNKNOWN, majority_share

if TYPE_CHECKING:
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task


class Classification(Predicting):
    """A linear layer on the picture's vector."""

    name = "classification"

    def missing(self, config: SystemConfig) -> str | None:
        return "an image tower" if config.image is None else None

    def head(self, system: System) -> nn.Module:
        assert system.config.image is not None, "missing() has said so"
        return nn.Linear(system.config.image.width, system.sizes.classes)

    def outputs(self, system: System, seen: Seen, drawn: Any) -> Predictions:
        logits = self.logits(system, seen.pictures())
        return Predictions(logits, seen.pairs.labels, UNKNOWN, seen.recipe.smoothing)

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Accuracy among the classes of training."""
        said = self._said(system, side)
        right = (said == task.label_of[side.rows]).float().mean()
        majority = percent(majority_share([task.labels[i] for i in side.rows]))
        return [Score("accuracy", percent(right), percent(1 / len(task.classes)), majority)]

    def examples(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Example]:
        """The class it takes a picture for."""
        said = [task.classes[i] for i in self._said(system, side).tolist()]
        return [Example(row, task.labels[row], label) for row, label in zip(side.rows, said)]

    def _said(self, system: System, side: Side) -> Tensor:
        return in_chunks(lambda x: self.logits(system, system.see(x)).argmax(1), side.pictures)

    def logits(self, system: System, pictures: Tensor) -> Tensor:
        """Tokens of pictures -> (B, classes)."""
        return system.heads[self.name](system.picture_vector(pictures))
