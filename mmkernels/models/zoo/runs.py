"""Several runs of one study: each in a folder of its own, gone on with where it stands."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mmkernels.models.loop import StopRequest, train
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.task import Task
from mmkernels.models.zoo.training import Setup, Trainer


class Stopped(Exception):
    """A signal asked the study to leave; what has been trained is saved. `signal` is its number."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def finish(
    folder: Path, task: Task, setup: Setup, stop: StopRequest, start: dict[str, Tensor] | None = None
) -> ZooCheckpoint:
    """The finished run of a folder: done already, gone on with, or begun.

    Args:
        start: weights to begin with.

    Raises:
        ValueError: the folder holds another run.
        Stopped: a signal came.
    """
    path = folder / FILE_NAME
    if path.exists():
        trainer = Trainer.resume(path, task)
        if trainer.setup != setup:
            raise ValueError(f"{path} is of another run than this one: give another --out, or the same arguments")
    else:
        trainer = Trainer(task, setup, start)
    if not trainer.finished:
        train(trainer, path, stop=stop)
    if not trainer.finished:
        raise Stopped(stop.signal or 0)
    return trainer.checkpoint()


def file_name(name: str) -> str:
    """Of what a study calls by this name: its file or folder."""
    return name.replace(", ", "-").replace(" ", "-")
