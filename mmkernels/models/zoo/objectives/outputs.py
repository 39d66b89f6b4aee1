"""What a system says of a batch: its loss is computed from it, and a student learns to say the same as its teacher."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Predictions(NamedTuple):
    """Logits (..., k) and the right classes (...), `ignored` where none is asked for."""

    logits: Tensor
    target: Tensor
    ignored: int = -100
    smoothing: float = 0.0

    def cross_entropy(self) -> Tensor:
        """Mean over what is asked for, 0 where that is nothing."""
        losses = F.cross_entropy(
            self.logits.flatten(0, -2), self.target.flatten(), ignore_index=self.ignored, reduction="sum",
            label_smoothing=self.smoothing,
        )  # fmt: skip
        return losses / (self.target != self.ignored).sum().clamp(min=1)

    def imitation(self, teacher: Predictions, temperature: float) -> Tensor:
        """`softened_divergence` of the teacher's logits at the same places."""
        asked = self.target != self.ignored
        return softened_divergence(self.logits[asked], teacher.logits[asked], temperature)


class Similarity(NamedTuple):
    """Unit vectors of pictures and of their texts, (B, width); their products are scaled and, by a bias, shifted."""

    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor | None = None

    def imitation(self, teacher: Similarity, temperature: float) -> Tensor:
        """`softened_divergence` over the batch's texts of each picture and over the pictures of each text.

        The widths may differ: what is compared is how similar a batch's pictures and texts are. A bias shifts all
        logits alike and has no part in it.
        """
        own, wanted = self._logits(), teacher._logits()
        rows = softened_divergence(own, wanted, temperature)
        return (rows + softened_divergence(own.t(), wanted.t(), temperature)) / 2

    def _logits(self) -> Tensor:
        return self.scale * (self.images @ self.texts.t())


Outputs = Predictions | Similarity


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(softmax(teacher / T) || softmax(student / T))`, mean over the rows of (n, k), 0 for none.

    The factor keeps the gradients' size whatever the temperature (Hinton et al., 2015).
    """
    wanted = F.log_softmax(teacher.float() / temperature, -1)
    said = F.log_softmax(student.float() / temperature, -1)
    return temperature**2 * F.kl_div(said, wanted, reduction="sum", log_target=True) / max(1, len(student))
