"""The teacher of a distillation: found by its path, and known by its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mmkernels.models.recipe import TrainConfig
from mmkernels.models.regimes import DistillationConfig
from mmkernels.models.sealed import fingerprint
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.objectives import OBJECTIVES
from mmkernels.models.zoo.objectives.base import Imitable
from mmkernels.models.zoo.system import Sizes, System
from mmkernels.models.zoo.task import Task


def distil_from(path: Path, weight: float = 0.5, temperature: float = 2.0) -> DistillationConfig:
    """Learning from the system of a checkpoint.

    Raises:
        ValueError: it cannot be read, or weight or temperature is out of range.
    """
    weights = weights_fingerprint(ZooCheckpoint.load(path).model)
    return DistillationConfig(str(path.resolve()), weights, weight, temperature)


def load_teacher(config: DistillationConfig, recipe: TrainConfig, task: Task, sizes: Sizes) -> System:
    """The teacher of a student of this recipe and these sizes; torch's generator stays as it is.

    Raises:
        ValueError: no such checkpoint, of other data, sizes or objectives, or with other weights than the student's run
            began with.
    """
    path = Path(config.teacher)
    saved = ZooCheckpoint.load(path)
    if weights_fingerprint(saved.model) != config.fingerprint:
        raise ValueError(f"the teacher {path} has other weights than when this run began")
    saved.check_data(task, path)
    if saved.sizes != sizes:
        raise ValueError(f"the teacher {path} tells {saved.sizes} apart, the student {sizes}")
    taught = [name for name, _ in recipe.objectives if isinstance(OBJECTIVES[name], Imitable)]
    if not taught:
        raise ValueError(f"a teacher has nothing to say of {', '.join(name for name, _ in recipe.objectives)}")
    unknown = [name for name in taught if name not in saved.objectives]
    if unknown:
        raise ValueError(f"the teacher {path} has not learnt {', '.join(unknown)}")
    with torch.random.fork_rng(devices=[]):
        teacher = saved.build_model(None)
    return teacher.eval().requires_grad_(False)


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """A short hash of weights and their names."""
    return fingerprint(*(part for name in sorted(weights) for part in (name, weights[name].flatten())))
