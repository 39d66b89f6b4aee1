"""Evaluation: every objective of a system by its own figures, beside chance and majority."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tables import Table, number
from mmkernels.models.zoo.objectives import OBJECTIVES, Score, Side
from mmkernels.models.zoo.system import System
from mmkernels.models.zoo.task import Task

VIEW_SEED = 99
VIEW_STRIDE = 3  # every third training picture is looked at in a view that training never drew
SIDES = {"held_out": "held-out concepts", "known_views": "known ones, unseen views"}

Scores = dict[str, dict[str, list[Score]]]
"""By objective and side; the first score of each is the one that the objective is about."""


@torch.no_grad()
def evaluate(system: System, task: Task, recipe: TrainConfig) -> Scores:
    """All figures of a trained system."""
    system.eval()
    sides, found = sides_of(task), {}
    for name, _ in recipe.objectives:
        found[name] = {side.name: OBJECTIVES[name].judge(system, task, side, recipe) for side in sides}
    return found


def sides_of(task: Task) -> list[Side]:
    """Held-out concepts as they are, and every third known thing in an unseen view."""
    known = task.train[::VIEW_STRIDE]
    views = task.views(known, torch.Generator().manual_seed(VIEW_SEED))
    return [Side("held_out", task.held_out, task.plain(task.held_out)), Side("known_views", known, views)]


def as_json(scores: Scores) -> dict[str, Any]:
    """{objective: {side: {measure: {"model", "chance", "majority"}}}}"""

    def plain(score: Score) -> dict[str, Any]:
        return {name: value for name, value in asdict(score).items() if name != "measure"}

    return {
        objective: {side: {score.measure: plain(score) for score in part} for side, part in sides.items()}
        for objective, sides in scores.items()
    }


def as_tables(scores: Scores) -> list[Table]:
    """A table per objective and side."""
    tables: list[Table] = []
    for objective, sides in scores.items():
        for side, part in sides.items():
            rows = [
                [score.measure, *("" if x is None else number(x) for x in (score.model, score.chance, score.majority))]
                for score in part
            ]
            tables.append((f"{objective}, {SIDES[side]}, %", ["", "model", "chance", "majority"], rows))
    return tables
