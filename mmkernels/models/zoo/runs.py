"""Several runs of one study: each in a folder of its own, gone on with where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmkernels.files import write_atomically
from mmkernels.models.loop import StopRequest, train
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.tables import Table, print_tables
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.commands import note
from mmkernels.models.zoo.task import Task
from mmkernels.models.zoo.training import Setup, Trainer

Results = dict[str, Any]


class Stopped(Exception):
    """A signal asked the study to leave; what has been trained is saved. `signal` is its number."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def conduct(
    command: str, results: Path, as_json: bool, compare: Callable[[StopRequest], Results],
    shown: Callable[[Results], tuple[Table, Sequence[str]]],
) -> int:  # fmt: skip
    """A study as a command: compares, writes the results, prints them as JSON or as `shown`; the exit status.

    Args:
        results: the file of results.
        shown: a table and the lines below it.
    """
    with StopRequest() as stop:
        try:
            found = compare(stop)
        except Stopped as stopped:
            note("stopped and saved: the same command goes on", command)
            return 128 + stopped.signal
    text = json.dumps(found, indent=1)
    write_atomically(results, (text + "\n").encode())
    if as_json:
        print(text)
    else:
        table, lines = shown(found)
        print_tables([table])
        print("\n" + "\n".join([*lines, str(results)]))
    return 0


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
