"""What each frame of a clip shows, told one frame after the other; a word looks at the frame that it is about."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.mask import Mask
from mmkernels.models.captions import words
from mmkernels.models.config import SystemConfig, VideoConfig
from mmkernels.models.decoding import greedy
from mmkernels.models.metrics import caption_scores, percent
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.sources.clips import NEXT_FRAME
from mmkernels.models.tokenizer import BOS, PAD, Tokens
from mmkernels.models.video import frames_seen
from mmkernels.models.zoo.decoder import Context
from mmkernels.models.zoo.objectives.base import CHUNK, Example, Objective, Score, Seen, Side

if TYPE_CHECKING:
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task


DEAL_SEED = 31


class Told(NamedTuple):
    """Narrations, and the first and the last frame that each word looks at: (B, L, 2), -1 for none."""

    texts: Tokens
    frames: Tensor


class Narration(Objective):
    """Cross entropy of the next word, also of the one that turns to the next frame."""

    name = "narration"
    writes = True

    def missing(self, config: SystemConfig) -> str | None:
        if not isinstance(config.image, VideoConfig) or config.decoder is None:
            return "a tower of clips and a decoder"
        return None

    def draw(self, draw: Draw, held_out: bool) -> Told:
        texts = [narrations(draw.task)[i] for i in draw.rows]
        tokens = draw.task.encode(texts, draw.recipe.text_tokens, whole=draw.recipe.compile)
        return Told(tokens, frames_of(tokens, draw.task, draw.config))

    def loss(self, system: System, seen: Seen, drawn: Told) -> Tensor:
        fed = Tokens(drawn.texts.ids[:, :-1], drawn.texts.lengths - 1)
        logits = system.write(fed, context(system, seen.pictures(), drawn.frames[:, :-1]))
        target, smoothing = drawn.texts.ids[:, 1:], seen.recipe.smoothing
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=smoothing)

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Frames of which the right thing is said, beside the same narrations dealt to other clips (chance).

        Majority is the most frequent frame of training, told of every one. Then word F1 and exact matches.
        """
        truth = [narrations(task)[i] for i in side.rows]
        told = self._told(system, task, side, recipe)
        dealt = random.Random(DEAL_SEED).sample(told, len(told))  # not by a shift: motions come in turn
        usual = Counter(frame for i in task.train for frame in phrases(task, i)).most_common(1)[0][0]
        right = [phrases(task, i) for i in side.rows]
        constant = sum(frame == usual for row in right for frame in row) / sum(map(len, right))
        frames = Score("frames", frames_right(told, right), frames_right(dealt, right), percent(constant))
        model, chance = caption_scores(told, truth), caption_scores(dealt, truth)
        return [frames, *(Score(measure, model[measure], chance[measure]) for measure in ("word F1", "exact"))]

    def examples(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Example]:
        """What it tells."""
        told = self._told(system, task, side, recipe)
        return [Example(row, narrations(task)[row], text) for row, text in zip(side.rows, told)]

    def _told(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[str]:
        found: list[str] = []
        for clips in side.pictures.split(CHUNK):
            tokens, start = system.see(clips), torch.full((len(clips), 1), BOS)

            def logits_of(written: Tokens, tokens: Tensor = tokens) -> Tensor:
                return system.write(written, context(system, tokens, frames_of(written, task, system.config)))

            found += [task.tokenizer.decode(row) for row in greedy(logits_of, start, recipe.text_tokens - 1)]
        return found


def narrations(task: Task) -> list[str]:
    """What is told of each row.

    Raises:
        ValueError: the rows are not clips.
    """
    if task.narrations is None:
        raise ValueError("narrations are of clips, which this data has not")
    return task.narrations


def frames_of(tokens: Tokens, task: Task, config: SystemConfig) -> Tensor:
    """Which frames each word looks at, (B, L, 2): the first is told of from the start on, then one at each turn.

    Where a text turns once too often, what follows stays with the last frame.
    """
    assert isinstance(config.image, VideoConfig), "missing() has said so"
    turns = (tokens.ids == BOS) | (tokens.ids == task.word(NEXT_FRAME))
    turns &= turns.cumsum(1) <= config.image.frames
    return frames_seen(turns, tokens.lengths, config.image.frames, config.image.see)


def context(system: System, clips: Tensor, frames: Tensor) -> Context:
    """What the decoder looks at: the tokens of clips, (B, T * N, width), resampled frame by frame."""
    assert system.decoder is not None and isinstance(system.config.image, VideoConfig), "missing() has said so"
    each = clips.unflatten(1, (system.config.image.frames, -1)).flatten(0, 1)
    tokens = system.decoder.resampled(each)
    return Context(tokens.reshape(len(clips), -1, tokens.shape[-1]), Mask.media(frames, tokens.shape[1]))


def phrases(task: Task, row: int) -> list[str]:
    """What the narration of a row says of each frame; of the first one without the name of what moves."""
    first, *others = narrations(task)[row].split(f" {NEXT_FRAME} ")
    name = words(task.captions[row][0].removesuffix(task.labels[row]))
    return [" ".join(words(first)[len(name) :]), *others]


def frames_right(told: list[str], right: list[list[str]]) -> float:
    """Per cent of the frames that were told of in these words; before those of the first one may stand a name."""
    hits = 0
    for text, frames in zip(told, right):
        said = f" {text}".split(f" {NEXT_FRAME} ")
        hits += said[0].endswith(f" {frames[0]}")
        hits += sum(a == b for a, b in zip(said[1:], frames[1:]))
    return percent(hits / sum(map(len, right)))
