"""Preprocessing: batches as a pure function of (seed, step), so that a resumed run sees what it would have seen."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkernels.models.augment import TRAINING_STRENGTH, augment
from mmkernels.models.captions import training_caption
from mmkernels.models.corpus import Corpus
from mmkernels.models.grids import compose
from mmkernels.models.presets import Recipe
from mmkernels.models.questions import Scene, SceneMaker
from mmkernels.models.tokenizer import Tokens


@dataclass(frozen=True)
class PretrainBatch:
    """Pairs for retrieval, of which the first ones are captioned too."""

    pictures: Tensor  # (B, 3, 32, 32)
    texts: Tokens  # name and tags
    captions: Tokens  # the name, of the first pictures
    subgroups: Tensor  # (B,)
    tags: Tensor  # (B, tags), 0 or 1


@dataclass(frozen=True)
class VqaBatch:
    """Grids and four questions about each; the questions of a grid follow each other."""

    pictures: Tensor  # (B, 3, 64, 64)
    questions: Tokens  # (4 B, L)
    answers: Tensor  # (4 B,)
    scenes: list[Scene]


class Epochs:
    """Rows in a new order in every epoch, batch by batch; within an epoch none occurs twice.

    Args:
        seed: of the orders.
    """

    def __init__(self, rows: list[int], batch: int, seed: str) -> None:
        self._all, self._batch, self._seed = rows, batch, seed
        self.length = len(rows) // batch  # in steps; what remains is left out
        self._order: tuple[int, list[int]] = (-1, [])

    def rows(self, step: int) -> list[int]:
        """The rows of a step, whatever was asked for before."""
        epoch, place = divmod(step, self.length)
        if self._order[0] != epoch:
            order = list(self._all)
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._order[1][place * self._batch : (place + 1) * self._batch]


def randomness(seed: str) -> tuple[random.Random, torch.Generator]:
    """Python's and torch's, of their own, from one seed."""
    rng = random.Random(seed)
    return rng, torch.Generator().manual_seed(rng.getrandbits(63))


class BatchMaker:
    """Makes the batches of a run.

    Raises:
        ValueError: fewer training rows than a batch has.
    """

    def __init__(self, corpus: Corpus, recipe: Recipe, seed: int) -> None:
        if len(corpus.train) < recipe.batch:
            raise ValueError(f"a batch has {recipe.batch} pairs, but there are {len(corpus.train)} in training")
        self.corpus, self.recipe, self.seed = corpus, recipe, seed
        self.epochs = Epochs(corpus.train, recipe.batch, f"{seed}/epoch")
        self._scenes = SceneMaker(corpus.rows, corpus.train)

    def pretrain(self, step: int) -> PretrainBatch:
        """The batch of a step. Within an epoch no row occurs twice, so that no pair has a false negative twin."""
        rows = self.epochs.rows(step)
        rng, generator = randomness(f"{self.seed}/pretrain/{step}")
        corpus, recipe = self.corpus, self.recipe
        texts = [training_caption(corpus.rows[i], rng) for i in rows]
        names = [corpus.rows[i].name for i in rows[: recipe.captions]]
        return PretrainBatch(
            pictures=augment(corpus.pictures[rows], corpus.mirror[rows], generator, TRAINING_STRENGTH),
            texts=corpus.tokenizer.encode(texts, recipe.text_tokens),
            captions=corpus.tokenizer.encode(names, recipe.caption_tokens),
            subgroups=corpus.subgroup_of[rows],
            tags=corpus.tag_targets[rows],
        )

    def vqa(self, step: int) -> VqaBatch:
        """The batch of a step."""
        rng, generator = randomness(f"{self.seed}/vqa/{step}")
        scenes = [self._scenes.draw(rng) for _ in range(self.recipe.grids)]
        return vqa_batch(self.corpus, scenes, generator, self.recipe.question_tokens)


def vqa_batch(corpus: Corpus, scenes: list[Scene], generator: torch.Generator, max_length: int) -> VqaBatch:
    """Draws scenes and encodes their questions."""
    questions = [question for scene in scenes for question in scene.questions]
    return VqaBatch(
        pictures=compose(scenes, corpus.pictures, generator),
        questions=corpus.tokenizer.encode([question.text for question in questions], max_length),
        answers=torch.tensor([corpus.answers[question.answer] for question in questions]),
        scenes=scenes,
    )
