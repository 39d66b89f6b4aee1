"""What train and eval do with systems of the zoo."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmkernels.models import loop, presets, sources
from mmkernels.models.backends import Backends
from mmkernels.models.config import SystemConfig, with_dropout, with_window
from mmkernels.models.progress import Progress
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.sealed import prepare_folder
from mmkernels.models.sources.task import task_of
from mmkernels.models.tables import Table, print_tables
from mmkernels.models.zoo import evaluate as evaluation
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.log import LOG_NAME, write_log
from mmkernels.models.zoo.objectives import choose, parse
from mmkernels.models.zoo.report import Story, write_report
from mmkernels.models.zoo.task import Task, openmoji_task
from mmkernels.models.zoo.training import Setup, Trainer, steps_for_minutes
from mmkernels.models.zoo.window_times import tower_blocks, window_times

OPTIONS = (
    "data", "objective", "batch", "accumulate", "rate", "schedule", "autocast", "compile", "patience", "window",
    "start",
)  # fmt: skip
"""Arguments of train that the demo's presets do not have."""
RECIPE = ("batch", "accumulate", "rate", "schedule", "autocast", "patience")  # of them, fields of a recipe
MINUTES = 1.0
DATA = "openmoji"
SHOWN_NOTES = 10  # of a source: rows that were left out, and why
TEXT_ALONE_SIDE = 32  # pixels of pictures that no tower looks at


def serves(preset: str | None) -> bool:
    """Whether a preset is one of the zoo's, if it is one at all."""
    return preset is not None and preset not in presets.PRESETS


def train(args: argparse.Namespace, path: Path) -> int:
    """Trains a system, or goes on with it; `path` is its checkpoint."""
    loop.configure_torch(args.threads)
    if args.resume:
        strange = [f"--{name}" for name in OPTIONS if getattr(args, name) not in (None, False)]
        if strange:
            raise ValueError(f"--resume takes these from the checkpoint, do not give them again: {', '.join(strange)}")
        Backends.choose(args.backend)
        saved = ZooCheckpoint.load(path)
        trainer = Trainer.resume(path, load_task(saved.config, saved.data), args.backend)
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
    """Evaluates a system."""
    saved = ZooCheckpoint.load(path)
    if args.report:
        prepare_folder(Path(args.report).parent)
    loop.configure_torch(args.threads)
    task = load_task(saved.config, saved.data)
    saved.check_data(task, path)
    system = saved.build_model(args.backend)
    if saved.step < saved.steps and not saved.stopped:
        note(f"this checkpoint stands at step {saved.step} of {saved.steps}", "eval")
    scores = evaluation.evaluate(system, task, saved.recipe)
    if args.report:
        blocks = tower_blocks(saved.config)
        windows = None if blocks is None else window_times(blocks, backend=system.backends.attention)
        write_report(Story(saved, system, task, scores, windows), Path(args.report))
    if args.json:
        plain = {"checkpoint": str(path), "preset": saved.preset, "step": saved.step}
        print(json.dumps({**plain, **evaluation.as_json(scores)}, indent=1))
    else:
        print_tables(evaluation.as_tables(scores))
    return 0


def load_task(config: SystemConfig, data: str) -> Task:
    """The pictures that a system is trained and judged on, at its size.

    Args:
        data: a source of `mmkernels.models.sources`, or a folder.

    Raises:
        ValueError: no such data, or it cannot be used.
    """
    side = TEXT_ALONE_SIDE if config.image is None else config.image.side
    if data == DATA:  # with its tags, and as what questions are composed of
        return openmoji_task(side)
    found = sources.load(data, size=side)
    for text in found.notes[:SHOWN_NOTES]:
        note(f"{data}: {text}")
    if len(found.notes) > SHOWN_NOTES:
        note(f"{data}: and {len(found.notes) - SHOWN_NOTES} more notes of this kind")
    return task_of(found)


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
    steps, data = 1 if args.steps is None else args.steps, DATA if args.data is None else args.data
    if data not in sources.NAMES:
        data = str(Path(data).resolve())  # a checkpoint may be looked at from another folder
    setup = Setup(args.preset, config, recipe, steps, args.seed or 0, args.backend, data)
    start = None if args.start is None else ZooCheckpoint.load(Path(args.start)).model
    prepare_folder(path.parent)
    task = load_task(config, setup.data)
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
