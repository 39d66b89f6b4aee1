"""Checkpoints of the zoo: the run, and in their header everything that it was set up with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmkernels.models.config import SystemConfig
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.saved_run import SavedRun
from mmkernels.models.serial import from_json, to_json
from mmkernels.models.zoo.system import Sizes, System
from mmkernels.models.zoo.task import Task

OWN = ("preset", "data", "steps", "best_loss", "stale", "stopped")
"""Fields that JSON takes as they are."""


@dataclass(kw_only=True)
class ZooCheckpoint(SavedRun):
    """A run of the zoo at one step. `best` holds the weights of the best held-out loss, where training is patient.

    `stopped` tells that it ended early; `stale` counts the evaluations since the best one.
    """

    KIND = "zoo checkpoint"
    GROUPS = ("model", "optimizer", "history", "best")

    preset: str
    data: str
    config: SystemConfig
    recipe: TrainConfig
    sizes: Sizes
    steps: int
    best_loss: float | None = None
    stale: int = 0
    stopped: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)

    def pack(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in OWN}
        return {
            **plain, "sizes": asdict(self.sizes), "config": to_json(self.config), "recipe": to_json(self.recipe)
        }  # fmt: skip

    @classmethod
    def unpack(cls, header: dict[str, Any]) -> dict[str, Any]:
        plain = {name: header[name] for name in OWN}
        config, recipe = from_json(header["config"]), from_json(header["recipe"])
        return {**plain, "sizes": Sizes(**header["sizes"]), "config": config, "recipe": recipe}

    @property
    def objectives(self) -> list[str]:
        """Names of what was learnt."""
        return [name for name, _ in self.recipe.objectives]

    def check_data(self, task: Task, path: Path) -> None:
        """Raises ValueError where the task is not the one that the run was trained on."""
        self.check_fingerprint(task.fingerprint, path)

    def build_model(self, backend: str | None) -> System:
        """The system with its weights, on a backend of choice."""
        system = System(self.config, self.sizes, self.objectives, backend)
        self.load_weights(system)
        return system
