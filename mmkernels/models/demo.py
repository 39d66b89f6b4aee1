"""The demo: train, evaluate, compare with the naive path, report; some minutes on two processor cores."""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmkernels.files import write_atomically
from mmkernels.models import presets
from mmkernels.models.checkpoint import FILE_NAME
from mmkernels.models.comparison import compare, output_differences
from mmkernels.models.corpus import Corpus, load_corpus
from mmkernels.models.evaluate import Evaluation, evaluate
from mmkernels.models.loop import StopRequest, train
from mmkernels.models.openmoji import ATTRIBUTION
from mmkernels.models.presets import Plan
from mmkernels.models.progress import Progress
from mmkernels.models.report import EXAMPLE_SEED, Story, write_report
from mmkernels.models.tables import Table
from mmkernels.models.training import Trainer, measure_step_seconds

MINUTES = 4.25  # of training; evaluation, comparison and report take about one more
REPORT_NAME, RESULTS_NAME = "report.html", "results.json"
PRINTED_CAPTIONS = 6


@dataclass(frozen=True)
class DemoResult:
    """What a demo leaves behind; `stopped_by` is the signal that ended training early, if one did."""

    out: Path
    results: dict[str, Any]
    evaluation: Evaluation | None = None
    stopped_by: int | None = None


def new_trainer(
    corpus: Corpus, preset: str, seed: int, backend: str | None, dropout: float, plan: Plan | None, minutes: float
) -> Trainer:
    """A trainer whose plan is given, or fixed now from a time and the speed of this machine."""
    config, recipe = presets.configure(preset, dropout)
    trainer = Trainer(corpus, config, recipe, plan or Plan(1, 1), seed, backend)
    if plan is None:
        trainer.plan = presets.plan_for_seconds(60 * minutes, *measure_step_seconds(trainer))
    return trainer


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    backend: str | None = None,
    minutes: float = MINUTES,
    plan: Plan | None = None,
    preset: str = "demo",
    dropout: float = 0.0,
    quiet: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Trains from scratch into a folder and writes checkpoint, results and report there.

    Args:
        out: folder; a checkpoint of an earlier demo in it is replaced.
        plan: steps of each stage; None measures the machine and shares `minutes`.
        say: gets a line whenever a part begins.
    """
    started = time.perf_counter()
    say("loading the pictures")
    corpus = load_corpus()
    trainer = new_trainer(corpus, preset, seed, backend, dropout, plan, minutes)
    say(f"training {trainer.plan.pretrain} + {trainer.plan.vqa} steps")
    path = out / FILE_NAME
    with StopRequest() as stop, Progress(trainer.plan.total, quiet) as progress:
        if not train(trainer, path, progress, stop=stop):
            return DemoResult(out, {"step": trainer.step, "steps": trainer.plan.total}, stopped_by=stop.signal)
    say("evaluating")
    evaluation = evaluate(trainer.model, corpus, trainer.recipe)
    say("comparing fused and naive")
    threads = torch.get_num_threads()
    comparison = compare(seed, threads, backend, preset=preset)
    comparison["outputs"] = output_differences(trainer.checkpoint(), corpus, backend)

    say("writing the report")
    results = {
        "seed": seed,
        "steps": {"pretrain": trainer.plan.pretrain, "vqa": trainer.plan.vqa},
        "training seconds": round(trainer.seconds, 1),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "backends": trainer.model.backends.describe(),
        "threads": threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        **evaluation.results,
        "comparison": comparison,
        "attribution": ATTRIBUTION,
    }
    about = {
        "seed": str(seed),
        "steps": f"{trainer.plan.pretrain} pretraining, {trainer.plan.vqa} questions",
        "training time": f"{trainer.seconds:.0f} s on {threads} threads",
        "parameters": f"{results['parameters']:,}",
        **{f"backend of {op}": name for op, name in trainer.model.backends.describe().items()},
        "torch": torch.__version__,
    }
    history = trainer.history
    write_report(Story(corpus, trainer.model, evaluation, history, about, comparison), out / REPORT_NAME)
    results["seconds in all"] = round(time.perf_counter() - started, 1)
    write_atomically(out / RESULTS_NAME, json.dumps(results, indent=1).encode())
    return DemoResult(out, results, evaluation)


def caption_table(evaluation: Evaluation) -> Table:
    """Some captions beside the truth, drawn at random; those of held-out concepts are weak and shown as they are."""
    rng = random.Random(EXAMPLE_SEED)
    rows = []
    for title, examples in (("known, new view", evaluation.known), ("held out", evaluation.held_out)):
        for example in rng.sample(examples, min(PRINTED_CAPTIONS, len(examples))):
            rows.append([title, example.truth, example.caption])
    return "Captions that the model writes", ["", "truth", "written"], rows
