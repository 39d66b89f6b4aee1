"""Before and after: a trained teacher, the same in int8, a smaller system alone, and taught by the teacher."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmkernels.models.loop import StopRequest
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tables import Table, number
from mmkernels.models.zoo.batches import Batch, Batches
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.compression.deployed import Deployed, deploy
from mmkernels.models.zoo.compression.smaller import smaller
from mmkernels.models.zoo.evaluate import SIDES, as_json, evaluate
from mmkernels.models.zoo.objectives import choose
from mmkernels.models.zoo.runs import file_name, finish
from mmkernels.models.zoo.system import System
from mmkernels.models.zoo.task import Task
from mmkernels.models.zoo.teacher import distil_from
from mmkernels.models.zoo.training import Setup

TEACHER, TEACHER_INT8 = "teacher", "teacher, int8"
ALONE, TAUGHT, TAUGHT_INT8 = "smaller, alone", "smaller, distilled", "smaller, distilled, int8"
TIMED_BATCH, WARM_UP_ROUNDS = 16, 3


@dataclass(frozen=True)
class Plan:
    """What is compared: a student with these shares of width and layers, trained for `steps` (0: none) with each seed.

    `rounds`: how often each system's forward pass is timed.
    """

    steps: int
    seeds: int = 1
    width: float = 0.5
    layers: float = 0.5
    weight: float = 0.5
    temperature: float = 2.0
    rounds: int = 30

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("seeds", 1), ("rounds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass
class Contender:
    """One system of the comparison: what is deployed of it, with each seed."""

    name: str
    deployed: list[Deployed]
    systems: list[System]


def compare(
    path: Path, out: Path, task: Task, plan: Plan, backend: str | None, stop: StopRequest,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:  # fmt: skip
    """Compresses the system of a checkpoint; files and students' runs go to a folder.

    Returns:
        JSON values: "plan", "preset" and, by contender, "parameters", "bytes", "forward" (its time over the teacher's)
        and "scores" of each seed.

    Raises:
        ValueError: the checkpoint cannot be read, is of other data, or is not to be imitated.
        Stopped: a signal came; what is done stays in the folder.
    """
    saved = ZooCheckpoint.load(path)
    saved.check_data(task, path)
    found = [(TEACHER, [deploy(saved)]), (TEACHER_INT8, [deploy(saved, "int8")])]
    if plan.steps:
        runs: dict[str, list[ZooCheckpoint]] = {ALONE: [], TAUGHT: []}
        for seed in range(plan.seeds):
            for name, setup in students(path, saved, plan, seed, backend).items():
                say(f"{name}, seed {seed}: {plan.steps} steps")
                runs[name].append(finish(out / f"{file_name(name)}-{seed}", task, setup, stop))
        found += [(name, [deploy(run) for run in runs[name]]) for name in runs]
        found.append((TAUGHT_INT8, [deploy(run, "int8") for run in runs[TAUGHT]]))
    contenders, sizes = [], {}
    for name, deployed in found:
        file = out / f"{file_name(name)}.safetensors"
        deployed[0].save(file)
        sizes[name] = file.stat().st_size
        contenders.append(Contender(name, deployed, [each.build_model(backend) for each in deployed]))
    say(f"a forward pass of each, {plan.rounds} times in turn")
    seconds = forward_seconds(contenders, timed_batch(saved, task), plain(saved.recipe), plan.rounds)
    return {
        "preset": saved.preset,
        "plan": asdict(plan),
        "teacher steps": saved.step,
        "main objective": saved.objectives[0],
        "systems": {
            each.name: {
                "parameters": sum(p.numel() for p in each.systems[0].parameters()),
                "bytes": sizes[each.name],
                "forward ms": 1e3 * statistics.median(seconds[each.name]),
                "forward": statistics.median(a / b for a, b in zip(seconds[each.name], seconds[TEACHER])),
                "scores": [as_json(evaluate(system, task, plain(saved.recipe))) for system in each.systems],
            }
            for each in contenders
        },
    }


def students(path: Path, saved: ZooCheckpoint, plan: Plan, seed: int, backend: str | None) -> dict[str, Setup]:
    """The smaller system on the teacher's recipe, alone and taught."""
    config = smaller(saved.config, plan.width, plan.layers)
    alone = Setup(saved.preset, config, plain(saved.recipe), plan.steps, seed, backend, saved.data)
    lesson = distil_from(path, plan.weight, plan.temperature)
    return {ALONE: alone, TAUGHT: replace(alone, recipe=replace(alone.recipe, distillation=lesson))}


def plain(recipe: TrainConfig) -> TrainConfig:
    """A recipe without a teacher."""
    return replace(recipe, distillation=None, compile=False)


def timed_batch(saved: ZooCheckpoint, task: Task) -> Batch:
    """The batch whose losses are timed, forward alone."""
    media = saved.recipe.media
    batch = max(media, TIMED_BATCH // media * media)
    recipe = replace(plain(saved.recipe), batch=batch, grids=TIMED_BATCH)
    return Batches(task, saved.config, recipe, choose(saved.objectives, saved.config), seed=0).batch(0)


@torch.no_grad()
def forward_seconds(
    contenders: list[Contender], batch: Batch, recipe: TrainConfig, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each system's losses of a batch, in rounds: what else the machine does falls on all of them."""
    seconds: dict[str, list[float]] = {each.name: [] for each in contenders}
    for turn in range(WARM_UP_ROUNDS + rounds):
        first = turn % len(contenders)
        for each in contenders[first:] + contenders[:first]:
            system = each.systems[0].eval()
            started = time.perf_counter()
            system.losses(batch, recipe)
            seconds[each.name].append(time.perf_counter() - started)
    return {name: values[WARM_UP_ROUNDS:] for name, values in seconds.items()}


def as_table(results: dict[str, Any]) -> Table:
    """A row per system: size, time and the first measure of the main objective, on both sides."""
    objective, systems = results["main objective"], results["systems"]
    measure = next(iter(systems[TEACHER]["scores"][0][objective]["held_out"]))
    rows = []
    for name, entry in systems.items():
        share = entry["bytes"] / systems[TEACHER]["bytes"]
        row = [name, f"{entry['parameters']:,}", f"{entry['bytes']:,}", f"{share:.2f}", f"{entry['forward']:.2f}"]
        for side in SIDES:
            row.append(mean_and_spread([scores[objective][side][measure]["model"] for scores in entry["scores"]]))
        rows.append(row)
    head = ["", "parameters", "bytes", "of the teacher's", "time of a forward pass", *SIDES.values()]
    return f"{results['preset']}, {objective}: {measure}, %", head, rows


def mean_and_spread(values: list[float]) -> str:
    """The mean and, of several values, the standard deviation."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.mean(values))} ± {number(statistics.stdev(values))}"
