"""Task heads: from fused features to embeddings, words, answers and labels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkernels.models.config import ContrastiveConfig, TransformerConfig
from mmkernels.models.transformer import ACTIVATION_MODULES

SIGMOID_BIAS = -10.0  # SigLIP's start: every pair a negative


class ContrastiveHead(nn.Module):
    """Pooled image and text vectors to unit vectors that are compared by their dot product.

    Args:
        sigmoid: with a bias of the logits, which the sigmoid loss needs: nearly all pairs are negatives.
    """

    def __init__(self, image_width: int, text_width: int, config: ContrastiveConfig, sigmoid: bool = False) -> None:
        super().__init__()
        if not config.project_image and image_width != config.width:
            raise ValueError(f"width must be the image tower's where project_image is False, got {config.width}")
        self.image = nn.Linear(image_width, config.width, config.bias) if config.project_image else nn.Identity()
        self.text = nn.Linear(text_width, config.width, config.bias)
        self.largest = math.inf if config.largest_scale is None else config.largest_scale
        self.divides = config.temperature
        if self.divides:
            self.temperature = nn.Parameter(torch.tensor(1 / config.scale))
        else:
            self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if sigmoid else None

    def embed_image(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.image(pooled), dim=-1)

    def embed_text(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.text(pooled), dim=-1)

    @property
    def scale(self) -> Tensor:
        """What the dot products are multiplied by."""
        if self.divides:
            return self.temperature.reciprocal().clamp(max=self.largest)
        return self.log_scale.clamp(max=math.log(self.largest)).exp()


class LabelHeads(nn.Module):
    """Logits of the subgroup and of every frequent tag, from the pooled image: an auxiliary objective."""

    def __init__(self, width: int, subgroups: int, tags: int) -> None:
        super().__init__()
        self.subgroup = nn.Linear(width, subgroups)
        self.tags = nn.Linear(width, tags)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.subgroup(pooled), self.tags(pooled)


class WordHead(nn.Module):
    """Logits of the next word at every place."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.words(self.norm(x))


class AnswerHead(nn.Linear):
    """Logits of the closed set of answers, from the fused question and picture."""


class MaskedWordHead(nn.Module):
    """Logits of the words behind <mask>, read off the word embeddings (BERT)."""

    def __init__(self, config: TransformerConfig, words: nn.Embedding) -> None:
        super().__init__()
        self.transform = nn.Linear(config.width, words.embedding_dim)
        self.activation = ACTIVATION_MODULES[config.activation]()
        self.norm = nn.LayerNorm(words.embedding_dim, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))

    def forward(self, x: Tensor, words: nn.Embedding) -> Tensor:
        """x (n, width) -> (n, vocabulary)."""
        return F.linear(self.norm(self.activation(self.transform(x))), words.weight, self.bias)
