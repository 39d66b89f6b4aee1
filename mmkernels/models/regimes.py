"""How a system learns beside the plain losses of its objectives: from a teacher, or from pictures without labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DistillationConfig:
    """Learning from a teacher. Source: Hinton et al., "Distilling the knowledge in a neural network", 2015.

    Args:
        teacher: path of its checkpoint.
        fingerprint: of its weights, so that a run that goes on has the teacher that it began with.
        weight: share of the teacher in an objective's loss; the rest is the data's.
        temperature: what logits are divided by before they are compared: the higher, the more the unlikely counts.
    """

    teacher: str
    fingerprint: str
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"the weight of distillation must be in (0, 1], got {self.weight}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True)
class PseudoLabelConfig:
    """Learning from pictures without labels.

    Args:
        batch: such pictures of a micro-batch.
        confidence: the least probability at which a guess is taken for the truth.
    """

    batch: int = 64
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"the batch of pseudo-labels must be at least 1, got {self.batch}")
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence must be in [0, 1], got {self.confidence}")
