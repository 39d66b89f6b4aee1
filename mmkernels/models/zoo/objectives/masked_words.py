"""Words behind <mask>, from those around them and, where there is an interaction, the picture (BERT, UNITER, Oscar)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkernels.models.config import SingleStreamConfig, SystemConfig
from mmkernels.models.heads import MaskedWordHead
from mmkernels.models.metrics import percent
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tokenizer import UNK, Tokens
from mmkernels.models.zoo.objectives.base import Predicting, Score, Seen, Side, in_chunks
from mmkernels.models.zoo.objectives.outputs import Predictions
from mmkernels.models.zoo.task import majority_share

if TYPE_CHECKING:
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task

HIDDEN, CHANGED = 0.8, 0.9  # of the words to be told: these are masked, those up to here another word, the rest stay
JUDGE_SEED = 17


class Masked(NamedTuple):
    """Texts with some words hidden: where, as places of the flattened ids, and what stood there."""

    texts: Tokens
    places: Tensor  # (M,)
    words: Tensor  # (M,)


class MaskedWords(Predicting):
    """Cross entropy of the hidden words alone."""

    name = "masked_words"

    def missing(self, config: SystemConfig) -> str | None:
        if config.text is None or config.text.causal:
            return "a text tower that sees both sides of a word"
        return None

    def head(self, system: System) -> nn.Module:
        return MaskedWordHead(self._blocks(system.config), system.text_tower.embedding)

    def draw(self, draw: Draw, held_out: bool) -> tuple[Masked, Masked | None]:
        assert draw.pairs is not None, "this objective is about pairs"
        share, task = draw.recipe.mask_share, draw.task
        tags = hide(draw.pairs.tags, share, task, draw.rng) if draw.config.tagged else None
        return hide(draw.pairs.texts, share, task, draw.rng), tags

    def outputs(self, system: System, seen: Seen, drawn: tuple[Masked, Masked | None]) -> Predictions:
        texts, tags = drawn
        pictures = None if system.interaction is None else seen.pictures()
        logits = self.logits(system, texts, pictures, tags)
        words = texts.words if tags is None else torch.cat([texts.words, tags.words])
        return Predictions(logits, words)

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Accuracy on one hidden word of each text: name, tags and label, or the name where tags have a segment."""
        tagged, alone = system.config.tagged, system.interaction is None
        rng = random.Random(JUDGE_SEED)
        texts = task.encode(task.texts(side.rows, tagged), recipe.text_tokens)
        tags = task.encode(task.tag_texts(side.rows), recipe.text_tokens) if tagged else None
        ids, places, words = texts.ids.clone(), [], []
        for row, length in enumerate(texts.lengths.tolist()):
            known = [at for at in range(1, length - 1) if ids[row, at] > UNK]
            if known:  # a text may have no word that training knows
                places.append((row, rng.choice(known)))
                words.append(int(ids[places[-1]]))
                ids[places[-1]] = task.mask_word

        def guess(ids: Tensor, lengths: Tensor, pictures: Tensor | None, tags: Tokens | None) -> Tensor:
            everywhere = Masked(Tokens(ids, lengths), torch.arange(ids.numel()), ids)
            seen = None if pictures is None else system.see(pictures)
            plain = None if tags is None else Masked(tags, torch.arange(0), torch.arange(0))
            return self.logits(system, everywhere, seen, plain).argmax(-1).view_as(ids)

        if not words:
            return [Score("accuracy", 0.0, percent(1 / task.tokenizer.size))]
        guesses = in_chunks(guess, ids, texts.lengths, None if alone else side.pictures, tags)
        right = sum(int(guesses[place]) == word for place, word in zip(places, words)) / len(words)
        majority = percent(majority_share([str(word) for word in words]))
        return [Score("accuracy", percent(right), percent(1 / task.tokenizer.size), majority)]

    def logits(self, system: System, texts: Masked, pictures: Tensor | None, tags: Masked | None) -> Tensor:
        """Of the words at the places of the texts, then of the tags: (M, vocabulary)."""
        if pictures is None:
            streams = [system.read(texts.texts)]
        else:
            joined = system.join(texts.texts, pictures, None if tags is None else tags.texts)
            streams = [joined.words] if tags is None or joined.tags is None else [joined.words, joined.tags]
        hidden = [x.flatten(0, 1)[masked.places] for x, masked in zip(streams, (texts, tags)) if masked is not None]
        return system.heads[self.name](torch.cat(hidden), system.text_tower.embedding)

    def _blocks(self, config: SystemConfig) -> Any:
        assert config.text is not None, "missing() has said so"
        if config.interaction is None:
            return config.text.blocks
        single = isinstance(config.interaction, SingleStreamConfig)
        return config.interaction.blocks if single else config.interaction.text  # type: ignore[union-attr]


def hide(texts: Tokens, share: float, task: Task, rng: random.Random) -> Masked:
    """Hides a share of each text's words, at least one where there is one."""
    ids, places, words = texts.ids.clone(), [], []
    width = ids.shape[1]
    for row, length in enumerate(texts.lengths.tolist()):
        inside = range(1, length - 1)  # <bos> and <eos> stay
        for at in sorted(rng.sample(inside, min(len(inside), max(1, round(share * len(inside)))))):
            places.append(row * width + at)
            words.append(int(ids[row, at]))
            ids[row, at] = _shown(words[-1], task, rng)
    return Masked(Tokens(ids, texts.lengths), torch.tensor(places, dtype=torch.long), _ids(words))


def _shown(word: int, task: Task, rng: random.Random) -> int:
    draw = rng.random()
    if draw < HIDDEN:
        return task.mask_word
    return rng.randrange(UNK + 1, task.tokenizer.size) if draw < CHANGED else word


def _ids(words: Sequence[int]) -> Tensor:
    return torch.tensor(words, dtype=torch.long)
