"""What the command compress does."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmkernels.models import loop
from mmkernels.models.backends import Backends
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.sealed import prepare_folder
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.commands import load_task, note
from mmkernels.models.zoo.compression.study import Plan, as_table, compare
from mmkernels.models.zoo.runs import Results, conduct

RESULTS_NAME = "compression.json"


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `mmkernels compress`, but for --json, --backend and --threads, which other commands share."""
    sub.add_argument("checkpoint", help="a checkpoint of a system of the zoo, or the folder it is in: the teacher")
    sub.add_argument("--out", default="runs/compress", help="folder of files, students and results (runs/compress)")
    sub.add_argument("--steps", type=int, help="of each student; 0: int8 alone (as many as the teacher had)")
    sub.add_argument("--seeds", type=int, default=1, metavar="N", help="students of each kind, seeds 0, 1, ... (1)")
    sub.add_argument("--width", type=float, default=0.5, metavar="SHARE", help="of the teacher's width (0.5)")
    sub.add_argument("--layers", type=float, default=0.5, metavar="SHARE", help="of the teacher's layers (0.5)")
    sub.add_argument("--weight", type=float, default=0.5, help="share of the teacher in the student's loss (0.5)")
    sub.add_argument("--temperature", type=float, default=2.0, help="of what the teacher says (2)")
    sub.add_argument("--rounds", type=int, default=30, metavar="N", help="of the timing, each system in turn (30)")


def compress(args: argparse.Namespace) -> int:
    """Int8 weights and a distilled smaller system: size, speed and accuracy before and after."""
    path, out = Path(args.checkpoint), Path(args.out)
    path = path / FILE_NAME if path.is_dir() else path
    saved = ZooCheckpoint.load(path)
    steps = saved.step if args.steps is None else args.steps
    plan = Plan(steps, args.seeds, args.width, args.layers, args.weight, args.temperature, args.rounds)
    Backends.choose(args.backend)
    loop.configure_torch(args.threads)
    prepare_folder(out)
    task = load_task(saved.config, saved.data, "compress")

    def run(stop: loop.StopRequest) -> Results:
        return compare(path, out, task, plan, args.backend, stop, lambda text: note(text, "compress"))

    return conduct("compress", out / RESULTS_NAME, args.json, run, lambda results: (as_table(results), ()))
