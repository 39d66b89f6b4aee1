"""What a system can learn, one page each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmkernels.models.config import SystemConfig
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.zoo.objectives.base import Imitable, Objective, Score, Side
from mmkernels.models.zoo.objectives.captioning import Captioning
from mmkernels.models.zoo.objectives.classification import Classification
from mmkernels.models.zoo.objectives.contrastive import Contrastive
from mmkernels.models.zoo.objectives.distilled import Distilled
from mmkernels.models.zoo.objectives.masked_patches import MaskedPatches
from mmkernels.models.zoo.objectives.masked_words import MaskedWords
from mmkernels.models.zoo.objectives.matching import Matching
from mmkernels.models.zoo.objectives.narration import Narration
from mmkernels.models.zoo.objectives.pseudo_labels import PseudoLabels
from mmkernels.models.zoo.objectives.text_to_text import TextToText
from mmkernels.models.zoo.objectives.vqa import Vqa

if TYPE_CHECKING:
    from mmkernels.models.zoo.system import System

__all__ = ["OBJECTIVES", "Objective", "Score", "Side", "choose", "learnt", "parse"]

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Contrastive("softmax"), Contrastive("sigmoid"), Captioning(), Narration(), Matching(), MaskedWords(),
        MaskedPatches(), Vqa(), Classification(), TextToText(), PseudoLabels(),
    )
}  # fmt: skip


def choose(names: Sequence[str], config: SystemConfig) -> list[Objective]:
    """The objectives of these names, each of which the system has the parts for.

    Raises:
        ValueError: no such objective, one twice, or a part is missing.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"objective must name each once, got {', '.join(names)}")
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {name!r}")
        missing = OBJECTIVES[name].missing(config)
        if missing:
            raise ValueError(f"objective {name} needs {missing}, which this system has not")
        beside = OBJECTIVES[name].beside
        if beside is not None and beside not in names:
            raise ValueError(f"objective {name} needs {beside} beside it")
    return [OBJECTIVES[name] for name in names]


def learnt(name: str, recipe: TrainConfig, teacher: System | None = None) -> Objective:
    """The objective of this name as a recipe learns it: from a teacher as well, where there is one to imitate.

    Args:
        teacher: only needed where batches are drawn.
    """
    objective = OBJECTIVES[name]
    if recipe.distillation is None or not isinstance(objective, Imitable):
        return objective
    return Distilled(objective, recipe.distillation, teacher)


def parse(text: str) -> tuple[tuple[str, float], ...]:
    """Names and weights of "contrastive,captioning:0.5".

    Raises:
        ValueError: a weight that is not a positive number.
    """
    found = []
    for entry in text.split(","):
        name, _, weight = entry.strip().partition(":")
        try:
            found.append((name, float(weight) if weight else 1.0))
        except ValueError:
            raise ValueError(f"the weight of objective {name} must be a number, got {weight!r}") from None
    return tuple(found)
