"""The rooms joined: towers, interaction, fusion and heads as one model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.models.backends import Backends
from mmkernels.models.config import ContrastiveConfig
from mmkernels.models.corpus import PICTURE_SIZE
from mmkernels.models.decoding import greedy
from mmkernels.models.fusion import AnswerFusion, CaptionFusion
from mmkernels.models.grids import CELL
from mmkernels.models.heads import AnswerHead, ContrastiveHead, LabelHeads, WordHead
from mmkernels.models.interaction import InteractionBlock
from mmkernels.models.presets import MAX_TEXT, ModelConfig
from mmkernels.models.tokenizer import BOS, Tokens
from mmkernels.models.towers import POSITION_STD, CnnTower, TextTower, mean_over_words


@dataclass(frozen=True)
class Sizes:
    """How many classes each head tells apart."""

    vocabulary: int
    answers: int
    subgroups: int
    tags: int


class Captioner(nn.Module):
    """Next words of a caption, given the image tokens."""

    def __init__(self, config: ModelConfig, vocabulary: int, backends: Backends) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.position = nn.Parameter(torch.randn(1, MAX_TEXT, config.width) * POSITION_STD)
        self.fusion = CaptionFusion(config.width, config.width, backends.fusion)
        self.blocks = nn.ModuleList(
            InteractionBlock(config.blocks, backends.attention) for _ in range(config.caption_layers)
        )
        self.head = WordHead(config.width, vocabulary)

    def forward(self, images: Tensor, tokens: Tokens) -> Tensor:
        """images (B, N, width), tokens (B, L) -> logits (B, L, vocabulary)."""
        x = self.embedding(tokens.ids) + self.position[:, : tokens.ids.shape[1]]
        x = self.fusion(x, images.mean(1))
        mask = Mask.causal()  # padding stands behind every real word, so that causality hides it too
        for block in self.blocks:
            x = block(x, mask, images)
        return self.head(x)

    @torch.no_grad()
    def generate(self, images: Tensor, max_words: int = 14) -> list[list[int]]:
        """The most likely word, again and again, until <eos>: one list of ids per image, <eos> left out."""
        start = torch.full((len(images), 1), BOS)
        return greedy(lambda tokens: self(images, tokens), start, max_words)


class Answerer(nn.Module):
    """Answers to questions about grids, with towers of its own that start from the pretrained ones."""

    def __init__(self, config: ModelConfig, sizes: Sizes, backends: Backends) -> None:
        super().__init__()
        self.image_tower = CnnTower(config.image(2 * CELL))
        self.text_tower = TextTower(config.text, sizes.vocabulary, backends.attention)
        self.blocks = nn.ModuleList(
            InteractionBlock(config.blocks, backends.attention) for _ in range(config.answer_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.fusion = AnswerFusion([config.width] * 3, 2 * config.width, backends.fusion)
        self.head = AnswerHead(2 * config.width, sizes.answers)

    def forward(self, pictures: Tensor, questions: Tokens) -> Tensor:
        """pictures (B, 3, 64, 64), k questions each (B * k, L) -> logits (B * k, answers)."""
        images = self.image_tower(pictures)
        asked = self.text_tower(questions)
        mask = Mask.key_lengths(questions.lengths)
        x = asked
        for block in self.blocks:
            x = block(x, mask, images)
        seen = mean_over_words(self.norm(x), questions.lengths)
        return self.head(self.fusion([seen, mean_over_words(asked, questions.lengths)], images.mean(1)))


class MultimodalModel(nn.Module):
    """Image tower and text tower, a contrastive head, a captioner, auxiliary labels and an answerer.

    Args:
        backend: name of a backend for the ops of mmkernels, or None; see `Backends.choose`.
    """

    def __init__(self, config: ModelConfig, sizes: Sizes, backend: str | None = None) -> None:
        super().__init__()
        self.backends = Backends.choose(backend)
        self.image_tower = CnnTower(config.image(PICTURE_SIZE))
        self.text_tower = TextTower(config.text, sizes.vocabulary, self.backends.attention)
        self.contrastive = ContrastiveHead(config.width, config.width, ContrastiveConfig(config.width))
        self.labels = LabelHeads(config.width, sizes.subgroups, sizes.tags)
        self.captioner = Captioner(config, sizes.vocabulary, self.backends)
        self.answerer = Answerer(config, sizes, self.backends)

    def pool_image(self, tokens: Tensor) -> Tensor:
        """One vector per picture: (B, N, width) -> (B, width)."""
        return self.image_tower.pool(tokens)

    def embed_images(self, pictures: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> unit vectors (B, width)."""
        return self.contrastive.embed_image(self.pool_image(self.image_tower(pictures)))

    def embed_texts(self, texts: Tokens) -> Tensor:
        """(B, L) -> unit vectors (B, width)."""
        return self.contrastive.embed_text(mean_over_words(self.text_tower(texts), texts.lengths))

    def start_answerer(self) -> None:
        """Copies the pretrained towers into the answerer, all but the positions, which belong to the picture size."""
        images = {name: value for name, value in self.image_tower.state_dict().items() if name != "position"}
        self.answerer.image_tower.load_state_dict(images, strict=False)
        self.answerer.text_tower.load_state_dict(self.text_tower.state_dict())
