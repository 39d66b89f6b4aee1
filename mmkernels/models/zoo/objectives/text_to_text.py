"""A text from a text: here the name of a thing from its keywords (T5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmkernels.mask import Mask
from mmkernels.models.config import SystemConfig
from mmkernels.models.decoding import greedy
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tokenizer import BOS, PAD, Tokens
from mmkernels.models.zoo.decoder import Context
from mmkernels.models.zoo.objectives.base import CHUNK, Predicting, Score, Seen, Side
from mmkernels.models.zoo.objectives.captioning import MAX_WORDS, caption_figures
from mmkernels.models.zoo.objectives.outputs import Predictions

if TYPE_CHECKING:
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task


class TextToText(Predicting):
    """Cross entropy of the next word of the name."""

    name = "text_to_text"
    writes = True

    def missing(self, config: SystemConfig) -> str | None:
        if config.text is None or config.decoder is None or config.image is not None:
            return "a text tower and a decoder that reads it"
        return None

    def draw(self, draw: Draw, held_out: bool) -> tuple[Tokens, Tokens]:
        assert draw.pairs is not None, "this objective is about pairs"
        source = draw.task.encode(
            [keywords(draw.task, i) for i in draw.rows], draw.recipe.text_tokens, draw.recipe.compile
        )
        return source, draw.pairs.names

    def outputs(self, system: System, seen: Seen, drawn: tuple[Tokens, Tokens]) -> Predictions:
        source, target = drawn
        fed = Tokens(target.ids[:, :-1], target.lengths - 1)
        logits = system.write(fed, self._context(system, source))
        return Predictions(logits, target.ids[:, 1:], PAD, seen.recipe.smoothing)

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Word F1, exact matches and CIDEr of the names that are written."""
        names = []
        for at in range(0, len(side.rows), CHUNK):
            texts = [keywords(task, i) for i in side.rows[at : at + CHUNK]]
            context = self._context(system, task.encode(texts, recipe.text_tokens))
            start = torch.full((len(texts), 1), BOS)
            written = greedy(lambda tokens, c=context: system.write(tokens, c), start, MAX_WORDS)  # type: ignore[misc]
            names += [task.tokenizer.decode(row) for row in written]
        return caption_figures(names, task, side.rows)

    def _context(self, system: System, source: Tokens) -> Context:
        return Context(system.read(source), Mask.key_lengths(source.lengths))


def keywords(task: Task, row: int) -> str:
    """The tags of a thing and its class."""
    return " ".join([*task.tags[row], task.labels[row]])
