"""The arms of the comparison: the same few labels and steps; with pseudo-labels, pre-training, both, or neither."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mmkernels.models.config import SystemConfig, at_least
from mmkernels.models.loop import StopRequest
from mmkernels.models.recipe import USUAL_DATA, DataConfig, TrainConfig
from mmkernels.models.regimes import PseudoLabelConfig
from mmkernels.models.tables import Table, number
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.objectives import OBJECTIVES, Side
from mmkernels.models.zoo.runs import file_name, finish
from mmkernels.models.zoo.semi_supervised.few_labels import few_labels
from mmkernels.models.zoo.task import Task
from mmkernels.models.zoo.training import Setup

ALONE, PSEUDO = "labels alone", "pseudo-labels"
TUNED, BOTH = "pre-trained, labels alone", "pre-trained, pseudo-labels"
PRETRAINING = "pre-training"
SUPERVISED, SELF_SUPERVISED, UNLABELLED = "classification", "masked_patches", "pseudo_labels"
Objectives = tuple[tuple[str, float], ...]
SIDES = {"held_out": "held-out concepts", "unlabelled": "the unlabelled pictures"}


@dataclass(frozen=True)
class Plan:
    """What is compared, with each seed.

    Args:
        per_class: labelled pictures of each class; a seed draws others.
        steps: of every arm; `pretrain_steps`: of the pre-training without labels that two of them begin with, 0 for no
            such arms.
        weight: of the pseudo-labels' loss.
    """

    per_class: int = 4
    steps: int = 300
    pretrain_steps: int = 300
    seeds: int = 3
    weight: float = 1.0
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)

    def __post_init__(self) -> None:
        for name, least in (("per_class", 1), ("steps", 1), ("pretrain_steps", 0), ("seeds", 1)):
            at_least(name, getattr(self, name), least)


@dataclass(frozen=True)
class Study:
    """What the plan is carried out on: a preset's system and recipe, and a task with all of its labels."""

    preset: str
    config: SystemConfig
    recipe: TrainConfig
    task: Task
    plan: Plan
    backend: str | None = None
    data: DataConfig = USUAL_DATA


def compare(
    study: Study, out: Path, stop: StopRequest, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Trains every arm with every seed; the runs go to a folder.

    Returns:
        JSON values: "preset", "plan", "classes", "labelled", "unlabelled", "baselines" by side, "accuracy" by arm and
        side, of each seed, and "gain" over the labels alone by arm and side: of each seed, mean and standard deviation.

    Raises:
        ValueError: the system has no image tower, or the task too few pictures.
        Stopped: a signal came; what is done stays in the folder.
    """
    plan = study.plan
    accuracy: dict[str, dict[str, list[float]]] = {}
    for seed in range(plan.seeds):
        few = few_labels(study.task, plan.per_class, seed)
        for name, saved in _arms(study, few, out / f"seed-{seed}", seed, stop, say):
            for side, value in judge(saved, few, study.backend).items():
                accuracy.setdefault(name, {key: [] for key in SIDES})[side].append(value)
    gain = {
        name: {side: spread([a - b for a, b in zip(sides[side], accuracy[ALONE][side])]) for side in SIDES}
        for name, sides in accuracy.items()
        if name != ALONE
    }
    rows = judged(few)
    return {
        "preset": study.preset,
        "plan": asdict(plan),
        "classes": len(few.classes),
        "labelled": len(few.train),
        "unlabelled": len(few.unlabelled),
        "baselines": {side: _baselines(few, rows[side]) for side in SIDES},
        "accuracy": accuracy,
        "gain": gain,
    }


def _arms(
    study: Study, few: Task, folder: Path, seed: int, stop: StopRequest, say: Callable[[str], None]
) -> Iterator[tuple[str, ZooCheckpoint]]:
    """Name and finished run of every arm."""
    plan, recipe = study.plan, study.recipe

    def run(name: str, objectives: Objectives, steps: int, task: Task = few, **start: Any) -> ZooCheckpoint:
        batch = min(recipe.batch, len(task.train))
        own = replace(recipe, objectives=objectives, batch=batch, pseudo_labels=plan.pseudo_labels)
        say(f"{name}, seed {seed}: {steps} steps")
        setup = Setup(study.preset, study.config, own, steps, seed, study.backend, study.data)
        return finish(folder / file_name(name), task, setup, stop, **start)

    alone = ((SUPERVISED, 1.0),)
    pseudo = (*alone, (UNLABELLED, plan.weight))
    yield ALONE, run(ALONE, alone, plan.steps)
    yield PSEUDO, run(PSEUDO, pseudo, plan.steps)
    if plan.pretrain_steps:
        start = run(PRETRAINING, ((SELF_SUPERVISED, 1.0),), plan.pretrain_steps, study.task).model
        yield TUNED, run(TUNED, alone, plan.steps, start=start)
        yield BOTH, run(BOTH, pseudo, plan.steps, start=start)


@torch.no_grad()
def judge(saved: ZooCheckpoint, few: Task, backend: str | None) -> dict[str, float]:
    """Accuracy by side, per cent: on held-out concepts, and on the pictures whose labels training did not look at."""
    system = saved.build_model(backend).eval()
    found = {}
    for name, rows in judged(few).items():
        side = Side(name, rows, few.plain(rows))
        found[name] = OBJECTIVES[SUPERVISED].judge(system, few, side, saved.recipe)[0].model
    return found


def judged(few: Task) -> dict[str, list[int]]:
    """The rows of each side that have a label."""
    sides = {"held_out": few.held_out, "unlabelled": few.unlabelled}
    return {name: [i for i in rows if few.labels[i]] for name, rows in sides.items()}


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation (0 of a single one) beside the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "deviation": deviation, "seeds": values}


def _baselines(task: Task, rows: list[int]) -> dict[str, float]:
    labels = [task.labels[i] for i in rows]
    most = max(labels.count(name) for name in set(labels))
    return {"chance": 100 / len(task.classes), "majority": 100 * most / len(labels)}


def as_table(results: dict[str, Any]) -> Table:
    """A row per arm: accuracy and gain over the labels alone, mean and standard deviation over the seeds."""
    rows = []
    for name, sides in results["accuracy"].items():
        row = [name]
        for side in SIDES:
            entry = spread(sides[side])
            row.append(f"{number(entry['mean'])} ± {number(entry['deviation'])}")
            row.append(_gain(results["gain"][name][side]) if name in results["gain"] else "")
        rows.append(row)
    for name in ("majority", "chance"):
        rows.append([name, *(cell for side in SIDES for cell in (number(results["baselines"][side][name]), ""))])
    head = ["", *(cell for text in SIDES.values() for cell in (text, "gain"))]
    plan = results["plan"]
    title = (
        f"{results['preset']}: {results['labelled']} labelled pictures of {results['classes']} classes, "
        f"{results['unlabelled']} without labels, {plan['steps']} steps, {plan['seeds']} seeds; accuracy, %"
    )
    return title, head, rows


def verdict(results: dict[str, Any]) -> list[str]:
    """A sentence for each arm: whether it gains over the labels alone with every seed, on held-out concepts."""
    said = []
    for name, sides in results["gain"].items():
        gains = sides["held_out"]["seeds"]
        better = sum(gain > 0 for gain in gains)
        what = "gains" if better == len(gains) else "does not gain" if better == 0 else "does not always gain"
        said.append(f"{name}: {what} on held-out concepts ({better} of {len(gains)} seeds are better)")
    return said


def _gain(entry: dict[str, Any]) -> str:
    return f"{entry['mean']:+.1f} ± {entry['deviation']:.1f}"
