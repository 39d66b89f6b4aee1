"""Does this text belong to this picture? (ITM of UNITER, ViLBERT; Oscar's contrastive part)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkernels.models.config import SystemConfig
from mmkernels.models.fusion import AnswerFusion
from mmkernels.models.metrics import percent
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tokenizer import Tokens
from mmkernels.models.zoo.objectives.base import Objective, Score, Seen, Side, in_chunks

if TYPE_CHECKING:
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task


class PairHead(nn.Module):
    """Text and picture side by side through concat-fusion, then one logit."""

    def __init__(self, widths: tuple[int, int], backend: str | None) -> None:
        super().__init__()
        self.fusion = AnswerFusion(widths, widths[0], backend)
        self.out = nn.Linear(widths[0], 1)

    def forward(self, text: Tensor, picture: Tensor) -> Tensor:
        """(B * k, width), (B, width) -> (B * k,)."""
        return self.out(self.fusion([text], picture))[:, 0]


class Matching(Objective):
    """Half of the pairs are right; in the others the text is another's of the batch. Tags stay with their picture."""

    name = "matching"

    def missing(self, config: SystemConfig) -> str | None:
        return "an image tower and a text tower" if config.image is None or config.text is None else None

    def head(self, system: System) -> nn.Module:
        return PairHead(system.widths, system.backends.fusion)

    def draw(self, draw: Draw, held_out: bool) -> Tensor:
        assert draw.pairs is not None, "this objective is about pairs"
        hard = draw.recipe.negatives == "hard"
        return torch.tensor(negatives(draw.pairs.labels.tolist(), hard, draw.rng))

    def loss(self, system: System, seen: Seen, drawn: Tensor) -> Tensor:
        texts, words = seen.pairs.texts, seen.words()
        tags = seen.pairs.tags
        right = self._logits(system, texts, seen.pictures(), tags, words)
        others = Tokens(texts.ids[drawn], texts.lengths[drawn])
        wrong = self._logits(system, others, seen.pictures(), tags, words[drawn])
        return (F.softplus(-right).mean() + F.softplus(wrong).mean()) / 2

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Accuracy on each picture with its own text, and with that of a picture far away (neighbours are alike)."""
        texts = task.encode(task.texts(side.rows, system.config.tagged), recipe.text_tokens)
        tags = task.encode(task.tag_texts(side.rows), recipe.text_tokens)
        half = len(side.rows) // 2
        others = Tokens(texts.ids.roll(half, 0), texts.lengths.roll(half, 0))

        def says(pictures: Tensor, texts: Tokens, tags: Tokens) -> Tensor:
            return self._logits(system, texts, system.see(pictures), tags) > 0

        right = in_chunks(says, side.pictures, texts, tags).float().mean()
        wrong = in_chunks(says, side.pictures, others, tags).float().mean()
        return [Score("accuracy", percent((right + 1 - wrong) / 2), 50.0, 50.0)]

    def _logits(
        self, system: System, texts: Tokens, pictures: Tensor, tags: Tokens, words: Tensor | None = None
    ) -> Tensor:
        return system.heads[self.name](*system.joint_vectors(system.join(texts, pictures, tags, words)))


def negatives(labels: list[int], hard: bool, rng: random.Random) -> list[int]:
    """For each row of a batch another one: of the same label where there is one and it shall be hard."""
    by_label: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        by_label.setdefault(label, []).append(row)
    found = []
    for row, label in enumerate(labels):
        others = [other for other in by_label[label] if other != row] if hard else []
        found.append(rng.choice(others or [other for other in range(len(labels)) if other != row]))
    return found
