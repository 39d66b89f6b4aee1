"""What train and eval do with systems of the zoo."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmkernels.models import loop, presets
from mmkernels.models.backends import Backends
from mmkernels.models.config import SystemConfig, with_dropout, with_window
from mmkernels.models.pretrained import start_weights
from mmkernels.models.progress import Progress
from mmkernels.models.recipe import DataConfig, TrainConfig
from mmkernels.models.sealed import prepare_folder
from mmkernels.models.tables import Table, print_tables
from mmkernels.models.zoo import evaluate as evaluation
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.compression.deployed import load_any
from mmkernels.models.zoo.data import data_of, task_and_notes
from mmkernels.models.zoo.log import LOG_NAME, write_log
from mmkernels.models.zoo.objectives import choose, parse
from mmkernels.models.zoo.report import Story, write_report
from mmkernels.models.zoo.task import Task
from mmkernels.models.zoo.training import Setup, Trainer, steps_for_minutes
from mmkernels.models.zoo.window_times import (
    WINDOWS,
    parse_windows,
    tower_layers,
    window_tables,
    window_times,
    windows_as_json,
)

OPTIONS = (
    "data", "languages", "objective", "batch", "accumulate", "rate", "schedule", "autocast", "compile", "patience",
    "window", "start",
)  # fmt: skip
"""Arguments of train that the demo's presets do not have."""
EVAL_OPTIONS = ("data", "windows")
"""Arguments of eval that the demo's presets do not have."""
RECIPE = ("batch", "accumulate", "rate", "schedule", "autocast", "patience")  # of them, fields of a recipe
MINUTES = 1.0
SHOWN_NOTES = 5


def serves(preset: str | None) -> bool:
    """Whether a preset is one of the zoo's, if it is one at all."""
    return preset is not None and preset not in presets.PRESETS


def train(args: argparse.Namespace, path: Path) -> int:
    """Trains a system, or goes on with it; `path` is its checkpoint."""
    loop.configure_torch(args.threads)
    if args.resume:
        strange = given(args, [name for name in OPTIONS if name != "data"])
        if strange:
            raise ValueError(f"--resume takes these from the checkpoint, do not give them again: {', '.join(strange)}")
        Backends.choose(args.backend)
        saved = ZooCheckpoint.load(path)
        data = data_now(args, saved)
        trainer = Trainer.resume(path, load_task(saved.config, data), args.backend, data)
    else:
        trainer = _new_trainer(args, path)
    setup, names = trainer.setup, trainer.loss_names
    if trainer.taken:
        note(f"{len(trainer.taken)} of {len(trainer.model.state_dict())} tensors begin as in {args.start}")
    note(f"preset {setup.preset}, {', '.join(names[1:])}: {setup.steps} steps, seed {setup.seed}, from {trainer.step}")
    with loop.StopRequest() as stop, Progress(trainer.total, args.json) as progress:
        finished = loop.train(
            trainer, path, progress, args.save_every, stop, on_save=lambda: write_log(trainer, path.parent)
        )
    held_out = trainer.history["held_out"]
    result: dict[str, Any] = {
        "checkpoint": str(path),
        "log": str(path.parent / LOG_NAME),
        "preset": setup.preset,
        "data": setup.data.name,
        "finished": finished,
        "stopped early": trainer.stopped,
        "step": trainer.step,
        "steps": setup.steps,
        "seed": setup.seed,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "backends": trainer.model.backends.describe(),
        "seconds": round(trainer.seconds, 2),
        "last losses": dict(zip(names, trainer.history["train"][-1])) if trainer.history["train"] else {},
        "held-out losses": dict(zip(names, held_out[-1][1:])) if held_out else {},
    }
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print_tables([_loss_table(result)])
        print(f"\n{trainer.step} of {setup.steps} steps in {trainer.seconds:.0f} s: {path}")
    return 0 if finished else 128 + (stop.signal or 0)


def evaluate(args: argparse.Namespace, path: Path) -> int:
    """Evaluates a system, of a checkpoint or of a deployed file."""
    saved = load_any(path)
    windows = WINDOWS if args.windows is None else parse_windows(args.windows)
    layered = bool(tower_layers(saved.config))
    if args.windows is not None and not layered:
        raise ValueError(f"--windows needs a Transformer tower, and {saved.preset} has none")
    if args.report:
        prepare_folder(Path(args.report).parent)
    loop.configure_torch(args.threads)
    saved.data = data_now(args, saved)
    task = load_task(saved.config, saved.data, "eval")
    saved.check_data(task, path)
    system = saved.build_model(args.backend)
    if saved.step < saved.steps and not saved.stopped:
        note(f"this checkpoint stands at step {saved.step} of {saved.steps}", "eval")
    scores = evaluation.evaluate(system, task, saved.recipe)
    times = None
    if layered and (args.report or args.windows is not None):
        times = window_times(saved.config, windows, backend=system.backends.attention)
    if args.report:
        write_report(Story(saved, system, task, scores, times), Path(args.report))
    if args.json:
        plain = {"checkpoint": str(path), "preset": saved.preset, "data": saved.data.name, "step": saved.step}
        timed = {} if times is None else {"windows": windows_as_json(times)}
        print(json.dumps({**plain, **evaluation.as_json(scores), **timed}, indent=1))
    else:
        print_tables(evaluation.as_tables(scores) + ([] if times is None else window_tables(times)))
    return 0


def given(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Those of the options that the user gave, as they are written."""
    return [f"--{name}" for name in names if getattr(args, name) not in (None, False)]


def data_now(args: argparse.Namespace, saved: ZooCheckpoint) -> DataConfig:
    """The data of a checkpoint, or where the user says that it is now."""
    return saved.data if args.data is None else data_of(saved.config, args.data, saved.data.languages)


def load_task(config: SystemConfig, data: DataConfig, command: str = "train") -> Task:
    """The data of a system; says what of it was left out: the first notes, and how many there are.

    Raises:
        ValueError: as `task_and_notes`.
    """
    task, notes = task_and_notes(config, data)
    for text in notes[:SHOWN_NOTES]:
        note(f"{data.name}: {text}", command)
    if len(notes) > SHOWN_NOTES:
        note(f"{data.name}: {len(notes)} notes in all, these were the first {SHOWN_NOTES}", command)
    return task


def configure(args: argparse.Namespace) -> tuple[SystemConfig, TrainConfig]:
    """A preset as the arguments change it.

    Raises:
        ValueError: no such preset or objective, a number out of range, or a part that the system lacks.
    """
    page, config = presets.find(args.preset)
    changes = {name: getattr(args, name) for name in RECIPE if getattr(args, name) is not None}
    if args.objective is not None:
        changes["objectives"] = parse(args.objective)
    recipe = replace(page.recipe, compile=args.compile, **changes)
    if args.window is not None:
        config = with_window(config, args.window)
    if args.dropout is not None:
        config = with_dropout(config, args.dropout)
    choose([name for name, _ in recipe.objectives], config)
    return config, recipe


def _new_trainer(args: argparse.Namespace, path: Path) -> Trainer:
    config, recipe = configure(args)  # refuses before the data is loaded
    if args.steps is not None and args.minutes is not None:
        raise ValueError("give --steps or --minutes, not both")
    minutes = MINUTES if args.minutes is None else args.minutes
    if not 0 < minutes < math.inf:
        raise ValueError(f"--minutes must be positive, got {minutes}")
    Backends.choose(args.backend)
    data = data_of(config, args.data, tuple(args.languages or ()))
    steps = 1 if args.steps is None else args.steps
    setup = Setup(args.preset, config, recipe, steps, args.seed or 0, args.backend, data)
    start = None if args.start is None else start_weights(Path(args.start))
    prepare_folder(path.parent)
    task = load_task(config, data)
    if args.steps is None:
        setup = replace(setup, steps=steps_for_minutes(task, setup, minutes))
    return Trainer(task, setup, start)


def _loss_table(result: dict[str, Any]) -> Table:
    held_out = result["held-out losses"]
    rows = [[name, f"{value:.4f}", f"{held_out[name]:.4f}"] for name, value in result["last losses"].items()]
    return "Losses of the last step", ["", "training", "held out"], rows


def note(text: str, command: str = "train") -> None:
    """A line of progress, on stderr."""
    print(f"mmkernels {command}: {text}", file=sys.stderr, flush=True)
