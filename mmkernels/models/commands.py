"""What the commands train, eval and demo do; `mmkernels.cli` parses their arguments."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from mmkernels.models import checkpoint, loop, presets, report, tables, training
from mmkernels.models import demo as models_demo
from mmkernels.models.backends import Backends
from mmkernels.models.corpus import load_corpus
from mmkernels.models.evaluate import evaluate as evaluate_model
from mmkernels.models.progress import Progress
from mmkernels.models.sealed import kind_of, prepare_folder
from mmkernels.models.zoo import commands as zoo
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.compression.deployed import Deployed


def train(args: argparse.Namespace) -> int:
    """Trains the demo's model or a system of the zoo, or goes on with it."""
    path = Path(args.out) / checkpoint.FILE_NAME
    if args.resume and args.overwrite:
        raise ValueError("--resume goes on with the checkpoint in --out, --overwrite replaces it: give one of them")
    if args.resume:
        fixed = [f"--{n}" for n in ("steps", "minutes", "seed", "preset", "dropout") if getattr(args, n) is not None]
        if fixed:
            raise ValueError(f"--resume takes these from the checkpoint, do not give them again: {', '.join(fixed)}")
    elif path.exists() and not args.overwrite:
        raise ValueError(f"{path} exists: give --resume to go on with it, --overwrite to replace it, or another --out")
    if kind_of(path) == ZooCheckpoint.KIND if args.resume else zoo.serves(args.preset):
        return zoo.train(args, path)
    if strange := zoo.given(args, zoo.OPTIONS):
        raise ValueError(f"these belong to the presets {', '.join(presets.PAGES)}: {', '.join(strange)}")
    plan, minutes = _plan(args)

    presets.configure(args.preset or "demo", args.dropout or 0.0)  # refuses before the data is loaded
    Backends.choose(args.backend)
    loop.configure_torch(args.threads)
    prepare_folder(path.parent)
    corpus = load_corpus()
    if args.resume:
        trainer = training.Trainer.resume(path, corpus, args.backend)
    else:
        trainer = models_demo.new_trainer(
            corpus, args.preset or "demo", args.seed or 0, args.backend, args.dropout or 0.0, plan, minutes
        )
    note(args, f"{trainer.plan.pretrain} + {trainer.plan.vqa} steps, seed {trainer.seed}, from step {trainer.step}")
    with loop.StopRequest() as stop, Progress(trainer.plan.total, args.json) as progress:
        finished = loop.train(trainer, path, progress, save_every=args.save_every, stop=stop)
    losses = {
        stage: dict(zip(names, trainer.history[stage][-1]))
        for stage, names in training.STAGES.items()
        if trainer.history[stage]
    }
    result = {
        "checkpoint": str(path),
        "finished": finished,
        "step": trainer.step,
        "steps": {"pretrain": trainer.plan.pretrain, "vqa": trainer.plan.vqa},
        "seed": trainer.seed,
        "backends": trainer.model.backends.describe(),
        "seconds": round(trainer.seconds, 2),
        "last losses": losses,
    }
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        rows = [[stage, name, f"{value:.4f}"] for stage, part in losses.items() for name, value in part.items()]
        tables.print_tables([("Losses of the last step", ["stage", "loss", "value"], rows)])
        print(f"\n{trainer.step} of {trainer.plan.total} steps in {trainer.seconds:.0f} s: {path}")
    return 0 if finished else 128 + (stop.signal or 0)


def evaluate(args: argparse.Namespace) -> int:
    """Evaluates a checkpoint."""

    path = Path(args.checkpoint)
    path = path / checkpoint.FILE_NAME if path.is_dir() else path
    if kind_of(path) in (ZooCheckpoint.KIND, Deployed.KIND):
        return zoo.evaluate(args, path)
    if strange := zoo.given(args, zoo.EVAL_OPTIONS):
        raise ValueError(f"these belong to the presets {', '.join(presets.PAGES)}: {', '.join(strange)}")
    saved = checkpoint.Checkpoint.load(path)
    if args.report:
        prepare_folder(Path(args.report).parent)
    loop.configure_torch(args.threads)
    corpus = load_corpus()
    saved.check_data(corpus, path)
    model = saved.build_model(args.backend)
    if saved.step < saved.plan.total:
        note(args, f"this checkpoint stands at step {saved.step} of {saved.plan.total}")
    evaluation = evaluate_model(model, corpus, saved.recipe, args.grids)
    if args.report:
        about = {"checkpoint": str(path), "seed": str(saved.seed), "step": f"{saved.step} of {saved.plan.total}"}
        history = {stage: rows.tolist() for stage, rows in saved.history.items()}
        report.write_report(report.Story(corpus, model, evaluation, history, about), Path(args.report))
    if args.json:
        print(json.dumps({"checkpoint": str(path), "step": saved.step, **evaluation.results}, indent=1))
    else:
        tables.print_tables(tables.evaluation_tables(evaluation.results))
    return 0


def demo(args: argparse.Namespace) -> int:
    """Trains, evaluates, compares and reports."""

    plan, minutes = _plan(args)
    presets.configure(args.preset or "demo", args.dropout or 0.0)
    loop.configure_torch(args.threads)
    prepare_folder(Path(args.out))
    done = models_demo.run_demo(
        Path(args.out), seed=args.seed or 0, backend=args.backend, plan=plan, minutes=minutes,
        preset=args.preset or "demo", dropout=args.dropout or 0.0, quiet=args.json, say=lambda text: note(args, text),
    )  # fmt: skip
    if done.evaluation is None:
        note(args, f"stopped and saved: mmkernels train --resume --out {args.out}")
        return 128 + (done.stopped_by or 0)
    if args.json:
        print(json.dumps(done.results, indent=1))
        return 0
    tables.print_tables(
        [
            *tables.evaluation_tables(done.results),
            models_demo.caption_table(done.evaluation),
            tables.comparison_table(done.results["comparison"]),
        ]
    )
    print(f"\n{done.results['attribution']}")
    print(f"\nreport: {done.out / models_demo.REPORT_NAME}   ({done.results['seconds in all']:.0f} s in all)")
    return 0


def _plan(args: argparse.Namespace) -> tuple[Any, float]:
    """The plan that --steps asks for, or None, and the minutes that one is to be made for then."""

    if args.steps is not None and args.minutes is not None:
        raise ValueError("give --steps or --minutes, not both")
    minutes = models_demo.MINUTES if args.minutes is None else args.minutes
    if not 0 < minutes < math.inf:
        raise ValueError(f"--minutes must be positive, got {minutes}")
    return (None if args.steps is None else presets.plan_for_steps(args.steps)), minutes


def note(args: argparse.Namespace, text: str) -> None:
    """A line of progress, on stderr."""
    print(f"mmkernels {args.name}: {text}", file=sys.stderr, flush=True)
