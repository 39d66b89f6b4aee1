"""The next word of a caption, given the picture; or of a text about several pictures, one after another (Flamingo)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mmkernels.mask import Mask
from mmkernels.models.config import SystemConfig
from mmkernels.models.decoding import greedy
from mmkernels.models.metrics import caption_scores, cider, percent
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tokenizer import BOS, PAD, Tokens
from mmkernels.models.zoo.decoder import Context
from mmkernels.models.zoo.objectives.base import CHUNK, Example, Predicting, Score, Seen, Side
from mmkernels.models.zoo.objectives.outputs import Predictions

if TYPE_CHECKING:
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task

MAX_WORDS = 14


class Written(NamedTuple):
    """Texts to be written, and the picture each word is about: (B, L), -1 before the first; None: one picture each."""

    texts: Tokens
    media: Tensor | None


class Captioning(Predicting):
    """Cross entropy of the next word; <media> itself is not learnt."""

    name = "captioning"
    writes = True

    def missing(self, config: SystemConfig) -> str | None:
        if config.image is None or config.decoder is None:
            return "an image tower and a decoder"
        return None

    def draw(self, draw: Draw, held_out: bool) -> Written:
        assert draw.pairs is not None, "this objective is about pairs"
        names, count = draw.pairs.names, draw.recipe.media
        return Written(names, None) if count == 1 else interleaved(names, count, draw.task.media_word)

    def outputs(self, system: System, seen: Seen, drawn: Written) -> Predictions:
        fed = Tokens(drawn.texts.ids[:, :-1], drawn.texts.lengths - 1)
        media = None if drawn.media is None else drawn.media[:, :-1]
        logits = system.write(fed, context(system, seen.pictures(), media))
        target = drawn.texts.ids[:, 1:]
        if drawn.media is not None:  # that a picture follows is given, not written
            target = target.masked_fill(drawn.media[:, 1:] > drawn.media[:, :-1], PAD)
        return Predictions(logits, target, PAD, seen.recipe.smoothing)

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Word F1, exact matches and CIDEr of greedy captions."""
        return caption_figures(self._captions(system, task, side, recipe), task, side.rows)

    def examples(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Example]:
        """What it writes."""
        captions = self._captions(system, task, side, recipe)
        return [Example(row, task.captions[row][0], caption) for row, caption in zip(side.rows, captions)]

    def _captions(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[str]:
        captions: list[str] = []
        for pictures in side.pictures.split(CHUNK):
            captions += [task.tokenizer.decode(row) for row in self.write(system, task, pictures, recipe)]
        return captions

    def write(self, system: System, task: Task, pictures: Tensor, recipe: TrainConfig) -> list[list[int]]:
        """A caption of each picture, (B, 3, S, S), as ids."""
        tokens = system.see(pictures)
        start = torch.full((len(pictures), 1), BOS)
        if recipe.media > 1:
            start = torch.cat([start, torch.full_like(start, task.media_word)], 1)

        def logits_of(written: Tokens) -> Tensor:
            media = None if recipe.media == 1 else (written.ids == task.media_word).cumsum(1) - 1
            return system.write(written, context(system, tokens, media))

        return greedy(logits_of, start, MAX_WORDS)


def context(system: System, pictures: Tensor, media: Tensor | None) -> Context:
    """What the decoder looks at: tokens (B * k, N, width) of the k pictures of each text, following each other."""
    assert system.decoder is not None, "this objective writes"
    tokens = system.decoder.resampled(pictures)
    if media is None:
        return Context(tokens, None, system.picture_vector(pictures))
    count = tokens.shape[1]
    return Context(tokens.reshape(len(media), -1, tokens.shape[-1]), Mask.media(media, count))


def interleaved(names: Tokens, count: int, media_word: int) -> Written:
    """Texts about `count` pictures each: <bos> <media> first name <eos> <media> second name <eos> ..."""
    rows = [ids[1:length].tolist() for ids, length in zip(names.ids, names.lengths.tolist())]
    texts = []
    for at in range(0, len(rows), count):
        texts.append([BOS] + [word for row in rows[at : at + count] for word in (media_word, *row)])
    lengths = [len(text) for text in texts]
    longest = count * names.ids.shape[1] + 1  # the same for batches of equal length
    ids = torch.full((len(texts), longest), PAD)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    return Written(Tokens(ids, torch.tensor(lengths)), (ids == media_word).cumsum(1) - 1)


def caption_figures(captions: list[str], task: Task, rows: list[int]) -> list[Score]:
    """Beside the same captions dealt to other pictures, and the most frequent word of training's names everywhere."""
    truth, half = [task.captions[i][0] for i in rows], len(rows) // 2  # far away: neighbours are alike
    dealt, words = captions[half:] + captions[:half], task.tokenizer.words
    count = Counter(word for i in task.train for word in words(task.captions[i][0]))
    frequent = max(count, key=count.__getitem__, default="")  # no caption may have a word
    references = [task.captions[i] for i in rows]

    def figures(said: list[str]) -> dict[str, float]:
        consensus = percent(cider(said, references, words) / 10)
        return {**caption_scores(said, truth, words), "CIDEr, of 10": consensus}

    model, chance, constant = figures(captions), figures(dealt), figures([frequent] * len(truth))
    return [Score(name, model[name], chance[name], constant[name]) for name in ("word F1", "exact", "CIDEr, of 10")]
