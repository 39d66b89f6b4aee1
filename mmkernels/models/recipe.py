"""How a system of the zoo learns, and on what: frozen, and checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmkernels.models.config import at_least, one_of, share
from mmkernels.models.regimes import DistillationConfig, PseudoLabelConfig

SCHEDULES = ("cosine", "linear", "constant")
NEGATIVES = ("hard", "batch")
AUTOCASTS = (None, "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """How a system learns.

    Args:
        objectives: names and weights.
        batch: pictures of a micro-batch; `accumulate` of them make a step.
        grids: composed pictures of a micro-batch of questions, four questions each.
        rate, schedule, warm_up: peak of the learning rate, how it falls, and the share of the steps in which it rises.
        mask_share: of words and of patches that are hidden.
        noise: share of the pairs whose text is another picture's.
        negatives: of matching: "hard", of the same class where the batch has one, or "batch", any other of the batch.
        media: pictures that a text speaks of, one after the other.
        autocast: "bf16", or None for fp32.
        patience: evaluations of the held-out loss without a new best one before training stops; None: never.
        distillation: from a teacher, or None; pseudo_labels: of pictures without labels, where that is an objective.
    """

    objectives: tuple[tuple[str, float], ...]
    batch: int = 64
    accumulate: int = 1
    grids: int = 16
    rate: float = 1e-3
    schedule: str = "cosine"
    warm_up: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    smoothing: float = 0.0
    text_tokens: int = 16
    mask_share: float = 0.2
    noise: float = 0.0
    negatives: str = "hard"
    media: int = 1
    autocast: str | None = None
    compile: bool = False
    patience: int | None = None
    distillation: DistillationConfig | None = None
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "grids", "media"):
            at_least(name, getattr(self, name), 1)
        at_least("text_tokens", self.text_tokens, 4)
        for name in ("warm_up", "smoothing", "mask_share", "noise"):
            share(name, getattr(self, name))
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("negatives", self.negatives, NEGATIVES)
        one_of("autocast", self.autocast, AUTOCASTS)
        if self.patience is not None:
            at_least("patience", self.patience, 1)
        if not self.objectives:
            raise ValueError("objectives must name at least one, got none")
        for name, weight in self.objectives:
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of {name} must be positive, got {weight}")
        if self.batch % self.media:
            raise ValueError(f"batch must be a multiple of media, got {self.batch} and {self.media}")
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"rate must be positive, got {self.rate}")


@dataclass(frozen=True)
class DataConfig:
    """What a system learns from: a name of `mmkernels.models.sources`, "sounds", or the path of a folder.

    `languages` are those of its captions, where it has several.
    """

    name: str = "openmoji"
    languages: tuple[str, ...] = ()


USUAL_DATA = DataConfig()
