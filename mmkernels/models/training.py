"""The training loop: two stages, fixed numbers of steps, checkpoints, stop and resume."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from mmkernels.models.batches import BatchMaker
from mmkernels.models.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from mmkernels.models.corpus import Corpus
from mmkernels.models.model import MultimodalModel, Sizes
from mmkernels.models.objectives import PRETRAIN_LOSSES, VQA_LOSSES, pretrain_losses, vqa_losses
from mmkernels.models.presets import ModelConfig, Plan, Recipe
from mmkernels.models.schedule import learning_rate

STAGES = {"pretrain": PRETRAIN_LOSSES, "vqa": VQA_LOSSES}
SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class StepReport:
    """What a step tells the progress display."""

    step: int  # done so far, of plan.total
    stage: str
    losses: dict[str, float]
    seconds: float  # of training so far


class Trainer:
    """A model on its way through a plan.

    Args:
        seed: of weights, data order, augmentation and dropout.
        backend: a backend's name, or None for the best there is; see `backends.Backends`.
    """

    def __init__(
        self, corpus: Corpus, config: ModelConfig, recipe: Recipe, plan: Plan, seed: int, backend: str | None = None
    ) -> None:
        torch.manual_seed(seed)
        self.corpus, self.config, self.recipe, self.plan = corpus, config, recipe, plan
        self.seed, self.backend = seed, backend
        self.sizes = sizes_of(corpus)
        self.model = MultimodalModel(config, self.sizes, backend)
        self.batches = BatchMaker(corpus, recipe, seed)
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        self.step = 0
        self.seconds = 0.0
        self.history: dict[str, list[list[float]]] = {stage: [] for stage in STAGES}
        self.stage = "pretrain"
        self.optimizer = self._new_optimizer()

    @classmethod
    def resume(cls, path: Path, corpus: Corpus, backend: str | None = None) -> Trainer:
        """A trainer that goes on where a checkpoint stands, with the checkpoint's own seed, plan and backend.

        Args:
            backend: another backend than the checkpoint's.

        Raises:
            ValueError: the checkpoint cannot be read or is of other data.
        """
        saved = Checkpoint.load(path)
        saved.check_data(corpus, path)
        trainer = cls(corpus, saved.config, saved.recipe, saved.plan, saved.seed, backend or saved.backend)
        saved.load_weights(trainer.model)
        trainer.step, trainer.seconds, trainer.stage = saved.step, saved.seconds, saved.stage
        trainer.history = {stage: saved.history[stage].tolist() for stage in STAGES}
        trainer.optimizer = trainer._new_optimizer()
        restore_optimizer(trainer.optimizer, trainer.names, saved.optimizer)
        torch.set_rng_state(saved.torch_rng)
        return trainer

    @property
    def finished(self) -> bool:
        return self.step >= self.plan.total

    def train_step(self) -> StepReport:
        """One step of whatever stage is due.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        started = time.perf_counter()
        if self.stage == "pretrain" and self.step >= self.plan.pretrain:
            self._enter_vqa()
        self.model.train()
        if self.stage == "pretrain":
            place, steps, peak = self.step, self.plan.pretrain, self.recipe.pretrain_rate
            losses = pretrain_losses(self.model, self.batches.pretrain(place), self.recipe)
        else:
            place, steps, peak = self.step - self.plan.pretrain, self.plan.vqa, self.recipe.vqa_rate
            losses = vqa_losses(self.model, self.batches.vqa(place))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(peak, place, steps, self.recipe.warm_up)
        self.optimizer.zero_grad()
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(self._parameters(), self.recipe.clip_norm)
        self.optimizer.step()

        numbers = {name: losses[name].item() for name in STAGES[self.stage]}
        if not math.isfinite(numbers["total"]):
            raise FloatingPointError(f"the loss of step {self.step + 1} is {numbers['total']}: training has diverged")
        self.history[self.stage].append(list(numbers.values()))
        self.step += 1
        self.seconds += time.perf_counter() - started
        return StepReport(self.step, self.stage, numbers, self.seconds)

    def checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        return Checkpoint(
            config=self.config,
            recipe=self.recipe,
            plan=self.plan,
            sizes=self.sizes,
            seed=self.seed,
            step=self.step,
            stage=self.stage,
            backend=self.backend,
            fingerprint=self.corpus.fingerprint,
            seconds=self.seconds,
            model=self.model.state_dict(),
            optimizer=optimizer_tensors(self.optimizer, self.names),
            history={stage: torch.tensor(rows, dtype=torch.float64) for stage, rows in self.history.items()},
            torch_rng=torch.get_rng_state(),
        )

    def _parameters(self) -> list[torch.nn.Parameter]:
        answerer = set(self.model.answerer.parameters())
        return [p for p in self.model.parameters() if (p in answerer) == (self.stage == "vqa")]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        parameters = self._parameters()
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, self.recipe.pretrain_rate, betas=self.recipe.betas, fused=True)

    def _enter_vqa(self) -> None:
        self.model.start_answerer()
        self.stage = "vqa"
        self.optimizer = self._new_optimizer()


def sizes_of(corpus: Corpus) -> Sizes:
    """How many words, answers and labels the task has."""
    return Sizes(
        vocabulary=corpus.tokenizer.size,
        answers=len(corpus.answers),
        subgroups=len(corpus.subgroups),
        tags=corpus.tag_targets.shape[1],
    )


def measure_step_seconds(trainer: Trainer, steps: int = 12) -> tuple[float, float]:
    """Time of a step of each stage, on a copy: the trainer and torch's generator stay as they are.

    The stages take turns, and the fastest quarter counts: what else the machine does only ever slows a step down.
    """
    with torch.random.fork_rng(devices=[]):
        probes = [
            Trainer(trainer.corpus, trainer.config, trainer.recipe, plan, trainer.seed, trainer.backend)
            for plan in (Plan(steps + 2, 1), Plan(0, steps + 2))
        ]
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(steps + 2):
            for probe, taken in zip(probes, seconds):
                before = probe.seconds
                probe.train_step()
                taken.append(probe.seconds - before)
    pretrain, vqa = (sorted(taken[2:])[len(taken[2:]) // 4] for taken in seconds)
    return pretrain, vqa


class StopRequest:
    """While entered, SIGINT and SIGTERM only set `signal`; a second SIGINT interrupts as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


def train(
    trainer: Trainer,
    path: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
    save_every: int = SAVE_EVERY,
    stop: StopRequest | None = None,
) -> bool:
    """Runs a trainer to the end of its plan, with a checkpoint every now and then, at a stop and at the end.

    Returns:
        True if the plan is done, False if `stop` asked to leave (the checkpoint then holds everything).
    """
    while not trainer.finished and not (stop and stop.signal):
        on_step(trainer.train_step())
        if trainer.step % save_every == 0:
            trainer.checkpoint().save(path)
    trainer.checkpoint().save(path)
    return trainer.finished


def configure_torch(threads: int | None) -> None:
    """Process-wide settings of a run: threads, and denormal numbers as zeros (they are many times slower)."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
