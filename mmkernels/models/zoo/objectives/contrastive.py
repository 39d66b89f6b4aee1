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
        """Retrieval both ways among the side's pictures and their texts (held out: name, tags, label; known: names).

        A text that several pictures share stands once among the candidates, and any of its pictures is right.
        """
        texts, of = self._texts(task, side)
        similarity = self._similarity(system, task, side, texts)
        own = torch.zeros_like(similarity, dtype=torch.bool)
        own[torch.arange(len(own)), of] = True
        best = similarity.masked_fill(~own, -torch.inf).argmax(0)  # of a text's own pictures: the others do not compete
        once = similarity.masked_fill(own.index_put((best, torch.arange(len(texts))), torch.tensor(False)), -torch.inf)
        both = {
            "image to text": (recall(similarity, of), chance(len(texts))),
            "text to image": (recall(once.T, best), chance(len(own), own.sum(0).tolist())),
        }
        return [Score(f"{way} {k}", part[k], guess[k]) for way, (part, guess) in both.items() for k in part]

    def examples(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Example]:
        """The name of the text that fits best."""
        texts, of = self._texts(task, side)
        names = {column: task.captions[row][0] for row, column in zip(side.rows, of.tolist())}
        best = self._similarity(system, task, side, texts).argmax(1).tolist()
        return [Example(row, task.captions[row][0], names[found]) for row, found in zip(side.rows, best)]

    def _texts(self, task: Task, side: Side) -> tuple[list[str], Tensor]:
        """The different texts of a side, and which of them each row has, (n,)."""
        texts = [task.full_text(i) if side.name == "held_out" else task.captions[i][0] for i in side.rows]
        place = {text: column for column, text in enumerate(dict.fromkeys(texts))}
        return list(place), torch.tensor([place[text] for text in texts])

    def _similarity(self, system: System, task: Task, side: Side, texts: list[str]) -> Tensor:
        """Cosine of the side's pictures (rows) and texts (columns)."""
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
