"""The log of a run: one JSON object a step, and a plot of it; both are written anew, whole, at every checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmkernels.files import write_atomically
from mmkernels.models import figures
from mmkernels.models.schedule import learning_rate
from mmkernels.models.zoo.training import Trainer

LOG_NAME, PLOT_NAME = "log.jsonl", "log.svg"


def write_log(trainer: Trainer, folder: Path) -> None:
    """Writes log.jsonl and log.svg. A line is a training step or, where it has "held_out", a look at that side."""
    lines = "".join(json.dumps(line) + "\n" for line in log_lines(trainer))
    write_atomically(folder / LOG_NAME, lines.encode())
    names = trainer.loss_names
    train = {name: [row[i] for row in trainer.history["train"]] for i, name in enumerate(names)}
    looks = trainer.history["held_out"]
    held_out = ([row[0] for row in looks], {name: [row[i + 1] for row in looks] for i, name in enumerate(names)})
    write_atomically(folder / PLOT_NAME, figures.log_plot(trainer.setup.preset, train, held_out))


def log_lines(trainer: Trainer) -> list[dict[str, Any]]:
    """The lines in the order of their steps."""
    recipe, names = trainer.setup.recipe, trainer.loss_names
    looks = {int(row[0]): dict(zip(names, row[1:])) for row in trainer.history["held_out"]}
    lines: list[dict[str, Any]] = []
    for place, row in enumerate(trainer.history["train"]):
        rate = learning_rate(recipe.rate, place, trainer.total, recipe.warm_up, recipe.schedule)
        lines.append({"step": place + 1, "rate": rate, **dict(zip(names, row))})
        if place + 1 in looks:
            lines.append({"step": place + 1, "held_out": looks[place + 1]})
    return lines
