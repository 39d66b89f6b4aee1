"""Pictures without labels: what a system is sure of, seen plainly, it shall say of a stronger view as well (FixMatch).

Source: Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.augment import augment
from mmkernels.models.config import AudioConfig, SystemConfig, VideoConfig
from mmkernels.models.metrics import percent
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.zoo.objectives.base import Objective, Score, Seen, Side, in_chunks
from mmkernels.models.zoo.objectives.classification import Classification
from mmkernels.models.zoo.task import UNKNOWN, Pictures, majority_share

if TYPE_CHECKING:
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task

WEAK, STRONG = 0.25, 1.0  # strengths of the two views; labelled pictures are seen at 0.5
CUT = 0.5  # of the side of the square that a strong view hides
GREY = 0.5
CLASSES = Classification()


class Views(NamedTuple):
    """The same pictures seen twice, (B, 3, S, S) each."""

    weak: Tensor
    strong: Tensor


class PseudoLabels(Objective):
    """Cross entropy of strong views with the classes that weak views are given with confidence; nothing else counts."""

    name = "pseudo_labels"
    pairs = False
    beside = CLASSES.name

    def missing(self, config: SystemConfig) -> str | None:
        if isinstance(config.image, VideoConfig | AudioConfig):
            return "an image tower"
        return CLASSES.missing(config)

    def draw(self, draw: Draw, held_out: bool) -> Views:
        task = draw.task
        pool = task.held_out if held_out else without_label(task)
        if not pool:
            raise ValueError("objective pseudo_labels needs pictures without labels, which this task has not")
        rows = draw.rng.sample(pool, min(draw.recipe.pseudo_labels.batch, len(pool)))
        assert isinstance(task.media, Pictures), "missing() has said so"
        pictures, mirror = task.media.pictures[rows], task.media.mirror[rows]
        weak = augment(pictures, mirror, draw.generator, WEAK)
        return Views(weak, cut_out(augment(pictures, mirror, draw.generator, STRONG), draw.generator))

    def loss(self, system: System, seen: Seen, drawn: Views) -> Tensor:
        with torch.no_grad():
            sure, guess = confident(CLASSES.logits(system, system.see(drawn.weak)), seen.recipe)
        wrong = F.cross_entropy(CLASSES.logits(system, system.see(drawn.strong)), guess, reduction="none")
        return (wrong * sure).mean()

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """How often the pseudo-label of a picture is right where there is one, and for how many there is one."""
        logits = in_chunks(lambda x: CLASSES.logits(system, system.see(x)), side.pictures)
        sure, guess = confident(logits, recipe)
        target = task.label_of[side.rows]
        right = ((guess == target) & (target != UNKNOWN) & sure).sum() / sure.sum().clamp(min=1)
        majority = percent(majority_share([task.labels[i] for i in side.rows]))
        return [
            Score("right where confident", percent(right), percent(1 / len(task.classes)), majority),
            Score("confident", percent(sure.float().mean()), 0.0),
        ]


def without_label(task: Task) -> list[int]:
    """Pictures for training whose labels are not there, or not looked at."""
    return [*task.unlabelled, *(i for i in task.train if not task.labels[i])]


def confident(logits: Tensor, recipe: TrainConfig) -> tuple[Tensor, Tensor]:
    """Which rows of (B, classes) have a class at the recipe's confidence, bool (B,), and each row's likeliest class."""
    probability, guess = logits.float().softmax(-1).max(-1)
    return probability >= recipe.pseudo_labels.confidence, guess


def cut_out(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures, (B, 3, S, S), each with a grey square somewhere, which may reach over the edge.

    Source: DeVries & Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """
    count, size = len(pictures), pictures.shape[-1]
    half = CUT * size / 2
    centre = torch.rand(count, 2, 1, generator=generator) * size
    inside = (torch.arange(size) + 0.5 - centre).abs() < half  # (B, 2, S)
    square = inside[:, 0, :, None] & inside[:, 1, None, :]
    return pictures.masked_fill(square[:, None], GREY)
