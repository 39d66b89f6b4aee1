"""Answers to generated questions about grids of four pictures, from a closed set."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmkernels.models.batches import VqaBatch, vqa_batch
from mmkernels.models.config import PictureConfig, SystemConfig
from mmkernels.models.fusion import AnswerFusion
from mmkernels.models.heads import AnswerHead
from mmkernels.models.metrics import accuracy, majority
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tokenizer import Tokens
from mmkernels.models.zoo.objectives.base import Predicting, Score, Seen, Side
from mmkernels.models.zoo.objectives.outputs import Predictions
from mmkernels.models.zoo.task import padded

if TYPE_CHECKING:
    from mmkernels.models.corpus import Corpus
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task

QUESTION_TOKENS = 16
JUDGE_SEED, JUDGED_GRIDS, JUDGED_AT_ONCE = 4242, 256, 64


class Answers(nn.Module):
    """Question and picture side by side through concat-fusion, then the answers' logits."""

    def __init__(self, widths: tuple[int, int], answers: int, backend: str | None) -> None:
        super().__init__()
        self.fusion = AnswerFusion(widths, 2 * widths[0], backend)
        self.out = AnswerHead(2 * widths[0], answers)

    def forward(self, text: Tensor, picture: Tensor) -> Tensor:
        """(B * k, width), (B, width) -> (B * k, answers)."""
        return self.out(self.fusion([text], picture))


class Vqa(Predicting):
    """Cross entropy of the answer."""

    name = "vqa"
    pairs = False

    def missing(self, config: SystemConfig) -> str | None:
        has = isinstance(config.image, PictureConfig) and config.text is not None
        return None if has else "an image tower and a text tower"

    def head(self, system: System) -> nn.Module:
        if not system.sizes.answers:
            raise ValueError("questions are composed of emoji, which this data has not")
        return Answers(system.widths, system.sizes.answers, system.backends.fusion)

    def draw(self, draw: Draw, held_out: bool) -> tuple[Tensor, Tokens, Tensor]:
        maker = draw.task.scene_makers["held_out" if held_out else "known_views"]
        scenes = [maker.draw(draw.rng) for _ in range(draw.recipe.grids)]
        batch = vqa_batch(_corpus(draw.task), scenes, draw.generator, QUESTION_TOKENS)
        questions = padded(batch.questions, QUESTION_TOKENS) if draw.recipe.compile else batch.questions
        return batch.pictures, questions, batch.answers

    def outputs(self, system: System, seen: Seen, drawn: tuple[Tensor, Tokens, Tensor]) -> Predictions:
        pictures, questions, answers = drawn
        return Predictions(self.logits(system, pictures, questions), answers)

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Accuracy on new grids, of held-out emoji or of known ones; chance is the same with the wrong pictures."""
        corpus = _corpus(task)
        maker = task.scene_makers[side.name]
        rng, generator = random.Random(JUDGE_SEED), torch.Generator().manual_seed(JUDGE_SEED)
        names = list(corpus.answers)
        given: dict[str, list[str]] = {"model": [], "blind": []}
        truth, kinds = [], []
        for _ in range(0, JUDGED_GRIDS, JUDGED_AT_ONCE):
            scenes = [maker.draw(rng) for _ in range(JUDGED_AT_ONCE)]
            batch: VqaBatch = vqa_batch(corpus, scenes, generator, QUESTION_TOKENS)
            for name, pictures in (("model", batch.pictures), ("blind", batch.pictures.roll(1, 0))):
                said = self.logits(system, pictures, batch.questions).argmax(1).tolist()
                given[name] += [names[i] for i in said]
            truth += [question.answer for scene in scenes for question in scene.questions]
            kinds += [question.kind for scene in scenes for question in scene.questions]
        model, blind, most = (
            accuracy(given["model"], truth, kinds), accuracy(given["blind"], truth, kinds), majority(truth, kinds)
        )  # fmt: skip
        order = ["all", *(kind for kind in model if kind != "all")]
        return [Score(kind, model[kind], blind[kind], most[kind]) for kind in order]

    def logits(self, system: System, pictures: Tensor, questions: Tokens) -> Tensor:
        """pictures (B, 3, 64, 64), k questions each -> (B * k, answers)."""
        joined = system.join(questions, system.see(pictures))
        text, picture = system.joint_vectors(joined)
        return system.heads[self.name](text, picture)


def _corpus(task: Task) -> Corpus:
    if task.corpus is None:
        raise ValueError("questions are composed of emoji, which this data has not")
    return task.corpus
