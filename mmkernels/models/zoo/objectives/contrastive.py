"""Pictures and their texts close to each other, and far from all others of the batch (CLIP, ALIGN; SigLIP)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mmkernels.models.config import SystemConfig
from mmkernels.models.heads import ContrastiveHead
from mmkernels.models.metrics import chance, recall
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tokenizer import Tokens
from mmkernels.models.zoo.objectives.base import Example, Imitable, Score, Seen, Side, in_chunks
from mmkernels.models.zoo.objectives.outputs import Similarity
from mmkernels.ops.contrastive.api import contrastive_loss

if TYPE_CHECKING:
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task

EVAL_TOKENS = 16  # of the texts that are retrieved
NAMES = {"softmax": "contrastive", "sigmoid": "sigmoid"}


class Contrastive(Imitable):
    """Vectors of the towers, before any interaction.

    Args:
        kind: of `mmkernels.contrastive_loss`.
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.name = kind, NAMES[kind]

    def missing(self, config: SystemConfig) -> str | None:
        if config.image is None or config.text is None:
            return "an image tower and a text tower"
        return "a text tower with layers" if config.text.blocks.layers == 0 else None

    def head(self, system: System) -> nn.Module:
        image, text = system.config.image, system.config.text
        assert image is not None and text is not None, "missing() has said so"
        return ContrastiveHead(image.width, text.width, system.config.contrastive, self.kind == "sigmoid")

    def outputs(self, system: System, seen: Seen, drawn: Any) -> Similarity:
        head = self._head(system)
        images = head.embed_image(system.picture_vector(seen.pictures()))
        texts = head.embed_text(system.text_vector(seen.words(), seen.pairs.texts.lengths))
        return Similarity(images, texts, head.scale, head.logit_bias)

    def loss_of(self, outputs: Similarity, system: System, recipe: TrainConfig) -> Tensor:
        return contrastive_loss(
            outputs.images, outputs.texts, outputs.scale, kind=self.kind, logit_bias=outputs.bias,
            label_smoothing=recipe.smoothing, backend=system.backends.contrastive,
        )  # fmt: skip

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """Retrieval both ways among the side's pictures and their texts (held out: name, tags, label; known: names)."""
        similarity = self._similarity(system, task, side)
        gold, guess = torch.arange(len(similarity)), chance(len(similarity))
        both = {"image to text": recall(similarity, gold), "text to image": recall(similarity.T, gold)}
        return [Score(f"{way} {k}", part[k], guess[k]) for way, part in both.items() for k in part]

    def examples(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Example]:
        """The name of the text that fits best."""
        best = self._similarity(system, task, side).argmax(1).tolist()
        names = [task.captions[i][0] for i in side.rows]
        return [Example(row, names[at], names[found]) for at, (row, found) in enumerate(zip(side.rows, best))]

    def _similarity(self, system: System, task: Task, side: Side) -> Tensor:
        """Cosine of the side's pictures (rows) and texts (columns)."""
        texts = [task.full_text(i) if side.name == "held_out" else task.captions[i][0] for i in side.rows]
        images = in_chunks(lambda x: self.embed_pictures(system, x), side.pictures)
        words = in_chunks(lambda ids, n: self.embed_texts(system, Tokens(ids, n)), *task.encode(texts, EVAL_TOKENS))
        return images @ words.T

    def embed_pictures(self, system: System, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) -> unit vectors."""
        return self._head(system).embed_image(system.picture_vector(system.see(pictures)))

    def embed_texts(self, system: System, texts: Tokens) -> Tensor:
        """(B, L) -> unit vectors."""
        return self._head(system).embed_text(system.text_vector(system.read(texts), texts.lengths))

    def _head(self, system: System) -> ContrastiveHead:
        return cast(ContrastiveHead, system.heads[self.name])
