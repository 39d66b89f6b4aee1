"""The training loop: a fixed number of steps, checkpoints, stop and resume, whatever it is that is trained."""

from __future__ import annotations

import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.models.saved_run import SavedRun, optimizer_tensors, restore_optimizer

SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class StepReport:
    """What a step tells the progress display."""

    step: int  # done so far, of all
    stage: str
    losses: dict[str, float]
    seconds: float  # of training so far


class Loop(ABC):
    """A model on its way through its steps.

    `history[stage]` holds a row of losses for every step of a stage; `optimizer` is over what `parameters` gives, and
    `names` are the model's names of these.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    names: dict[Tensor, str]
    history: dict[str, list[list[float]]]
    stage: str
    step: int = 0
    seconds: float = 0.0
    clip_norm: float = 1.0

    @property
    @abstractmethod
    def total(self) -> int:
        """Steps of the whole run."""

    @property
    def finished(self) -> bool:
        return self.step >= self.total

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What is trained now."""

    @abstractmethod
    def rate(self) -> float:
        """The learning rate of the step at hand."""

    @abstractmethod
    def losses(self) -> Iterator[dict[str, Tensor]]:
        """Losses by name of each micro-batch of the step at hand; the mean of "total" is what is minimised."""

    @abstractmethod
    def checkpoint(self) -> SavedRun:
        """The run as it stands."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint of any kind holds of a loop: fields of `SavedRun`."""
        return {
            "step": self.step,
            "stage": self.stage,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.names),
            "history": {stage: torch.tensor(rows, dtype=torch.float64) for stage, rows in self.history.items()},
            "torch_rng": torch.get_rng_state(),
        }

    def restore(self, saved: SavedRun) -> None:
        """Takes over the state of a checkpoint; the optimizer must be over the parameters of its stage already."""
        saved.load_weights(self.model)
        self.step, self.seconds, self.stage = saved.step, saved.seconds, saved.stage
        self.history = {stage: saved.history[stage].tolist() for stage in self.history}
        restore_optimizer(self.optimizer, self.names, saved.optimizer)
        torch.set_rng_state(saved.torch_rng)

    def before_step(self) -> None:  # noqa: B027
        """What a step may need to have happened: nothing."""

    def after_step(self) -> None:  # noqa: B027
        """What follows a step, as part of it: nothing."""

    def train_step(self) -> StepReport:
        """One step of whatever is due.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        started = time.perf_counter()
        self.before_step()
        self.model.train()
        self.optimizer.zero_grad()
        numbers, count = self._accumulate()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        if count > 1:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad /= count
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)
        self.optimizer.step()
        if not math.isfinite(numbers["total"]):
            raise FloatingPointError(f"the loss of step {self.step + 1} is {numbers['total']}: training has diverged")
        self.history[self.stage].append(list(numbers.values()))
        self.step += 1
        self.after_step()
        self.seconds += time.perf_counter() - started
        return StepReport(self.step, self.stage, numbers, self.seconds)

    def _accumulate(self) -> tuple[dict[str, float], int]:
        """Gradients summed over the micro-batches; the mean of each loss, and how many micro-batches there were."""
        sums: dict[str, float] = {}
        count = 0
        for losses in self.losses():
            losses["total"].backward()
            sums = {name: sums.get(name, 0.0) + loss.item() for name, loss in losses.items()}
            count += 1
        return {name: value / count for name, value in sums.items()}, count


def adamw(parameters: list[nn.Parameter], rate: float, weight_decay: float, betas: tuple[float, float]) -> Any:
    """AdamW in one fused step; vectors and scalars are not decayed."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, rate, betas=betas, fused=True)


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
    trainer: Loop,
    path: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
    save_every: int = SAVE_EVERY,
    stop: StopRequest | None = None,
    on_save: Callable[[], None] = lambda: None,
) -> bool:
    """Runs a trainer to the end of its steps, with a checkpoint every now and then, at a stop and at the end.

    Returns:
        True if all steps are done, False if `stop` asked to leave (the checkpoint then holds everything).
    """

    def save() -> None:
        trainer.checkpoint().save(path)
        on_save()

    while not trainer.finished and not (stop and stop.signal):
        on_step(trainer.train_step())
        if trainer.step % save_every == 0:
            save()
    save()
    return trainer.finished


def fastest_quarter(seconds: list[float]) -> float:
    """A step's time from those of several: what else the machine does only ever slows a step down."""
    return sorted(seconds)[len(seconds) // 4]


def configure_torch(threads: int | None) -> None:
    """Process-wide settings of a run: threads, and denormal numbers as zeros (they are many times slower)."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
