"""Training of any system on any of its objectives: accumulation, autocast, compilation, schedules, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.models.config import SystemConfig
from mmkernels.models.loop import Loop, adamw, fastest_quarter
from mmkernels.models.recipe import USUAL_DATA, DataConfig, TrainConfig
from mmkernels.models.schedule import learning_rate
from mmkernels.models.zoo.batches import Batch, Batches
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.objectives import choose, learnt
from mmkernels.models.zoo.system import Sizes, System
from mmkernels.models.zoo.task import Task
from mmkernels.models.zoo.teacher import load_teacher

CHECKS = 20  # evaluations of the held-out loss in a run
CHECK_BATCHES = 2
PROBED_STEPS, WARM_UP_STEPS = 8, 3  # of the measurement that fixes a run's steps from its minutes


@dataclass(frozen=True)
class Setup:
    """What a run is: a preset's configuration and recipe, as the user changed them, for a number of steps.

    `backend`: a backend's name, or None for the best there is; `data`: what `data.task_and_notes` finds the task by.
    """

    preset: str
    config: SystemConfig
    recipe: TrainConfig
    steps: int
    seed: int = 0
    backend: str | None = None
    data: DataConfig = USUAL_DATA

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        choose([name for name, _ in self.recipe.objectives], self.config)
        decoder = self.config.decoder
        if self.recipe.media > 1 and (decoder is None or decoder.look != "gated" or decoder.fuse):
            raise ValueError(f"media must be 1 where no gated decoder tells pictures apart, got {self.recipe.media}")


class Trainer(Loop):
    """A system on its way.

    Args:
        start: weights to begin with, by name; those that fit are taken (pre-training, then fine-tuning).
    """

    stage = "train"

    def __init__(self, task: Task, setup: Setup, start: dict[str, Tensor] | None = None) -> None:
        torch.manual_seed(setup.seed)
        self.task, self.setup = task, setup
        recipe, names = setup.recipe, [name for name, _ in setup.recipe.objectives]
        self.sizes = Sizes.of(setup.config, task)
        self.model: System = System(setup.config, self.sizes, names, setup.backend)
        self.taken = take_weights(self.model, start or {})
        teacher = None
        if recipe.distillation is not None:
            teacher = load_teacher(recipe.distillation, recipe, task, self.sizes)
        objectives = [learnt(name, recipe, teacher) for name in names]
        self.batches = Batches(task, setup.config, recipe, objectives, setup.seed)
        self.checks = Batches(task, setup.config, recipe, objectives, setup.seed, held_out=True)
        self.clip_norm = recipe.clip_norm
        self.history = {"train": [], "held_out": []}
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.optimizer = adamw(self.parameters(), recipe.rate, recipe.weight_decay, recipe.betas)
        self.best_loss: float | None = None
        self.best: dict[str, Tensor] = {}
        self.stale, self.stopped = 0, False
        self._losses: Callable[[Batch, TrainConfig], dict[str, Tensor]] = self.model.losses
        if recipe.compile:
            self._losses = torch.compile(self.model.losses)

    @classmethod
    def resume(cls, path: Path, task: Task, backend: str | None = None, data: DataConfig | None = None) -> Trainer:
        """A trainer that goes on where a checkpoint stands, with the checkpoint's own setup.

        Args:
            backend: another backend than the checkpoint's.
            data: where the same data is now.

        Raises:
            ValueError: the checkpoint cannot be read or is of other data.
        """
        saved = ZooCheckpoint.load(path)
        saved.data = data or saved.data
        saved.check_data(task, path)
        backend = backend or saved.backend
        setup = Setup(saved.preset, saved.config, saved.recipe, saved.steps, saved.seed, backend, saved.data)
        trainer = cls(task, setup)
        trainer.restore(saved)
        trainer.best_loss, trainer.best = saved.best_loss, saved.best
        trainer.stale, trainer.stopped = saved.stale, saved.stopped
        return trainer

    @property
    def total(self) -> int:
        return self.setup.steps

    @property
    def finished(self) -> bool:
        return self.stopped or self.step >= self.total

    @property
    def loss_names(self) -> list[str]:
        """Of the columns of the history."""
        return ["total", *(name for name, _ in self.setup.recipe.objectives)]

    def parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return list(self.model.parameters())

    def rate(self) -> float:
        """The peak under its schedule."""
        recipe = self.setup.recipe
        return learning_rate(recipe.rate, self.step, self.total, recipe.warm_up, recipe.schedule)

    def losses(self) -> Iterator[dict[str, Tensor]]:
        """Of each micro-batch of the step."""
        count = self.setup.recipe.accumulate
        for index in range(self.step * count, (self.step + 1) * count):
            with self._precision():
                losses = self._losses(self.batches.batch(index), self.setup.recipe)
            yield losses

    def after_step(self) -> None:
        """Now and then a look at the held-out loss; training stops where it has not been better for too long."""
        if self.step % max(1, self.total // CHECKS) and self.step < self.total:
            return
        losses = self.held_out_losses()
        self.history["held_out"].append([float(self.step), *losses.values()])
        if self.setup.recipe.patience is None:
            return
        if self.best_loss is None or losses["total"] < self.best_loss:
            self.best_loss, self.stale = losses["total"], 0
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        else:
            self.stale += 1
            self.stopped = self.stale >= self.setup.recipe.patience
        if self.finished:
            self.model.load_state_dict(self.best)

    @torch.no_grad()
    def held_out_losses(self) -> dict[str, float]:
        """Means over a few batches of the held-out side, always the same ones."""
        self.model.eval()
        sums: dict[str, float] = dict.fromkeys(self.loss_names, 0.0)
        for index in range(CHECK_BATCHES):
            with self._precision():
                losses = self.model.losses(self.checks.batch(index), self.setup.recipe)
            sums = {name: sums[name] + losses[name].item() for name in sums}
        return {name: value / CHECK_BATCHES if math.isfinite(value) else math.inf for name, value in sums.items()}

    def checkpoint(self) -> ZooCheckpoint:
        """The run as it stands."""
        setup = self.setup
        return ZooCheckpoint(
            preset=setup.preset,
            data=setup.data,
            config=setup.config,
            recipe=setup.recipe,
            sizes=self.sizes,
            steps=setup.steps,
            seed=setup.seed,
            backend=setup.backend,
            fingerprint=self.task.fingerprint,
            **self.state(),
            best_loss=self.best_loss,
            best=self.best,
            stale=self.stale,
            stopped=self.stopped,
        )

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.setup.recipe.autocast == "bf16")


def take_weights(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Puts weights of the same name and shape into a model; returns their names."""
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return sorted(fitting)


def steps_for_minutes(task: Task, setup: Setup, minutes: float) -> int:
    """How many steps fit a time, after a measurement on a copy; torch's generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        probe = Trainer(task, setup)
        seconds = []
        for _ in range(PROBED_STEPS + WARM_UP_STEPS):
            before = probe.seconds
            probe.train_step()
            seconds.append(probe.seconds - before)
    return max(1, int(60 * minutes / fastest_quarter(seconds[WARM_UP_STEPS:])))
