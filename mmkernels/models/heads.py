"""Task heads: from fused features to embeddings, words, answers and labels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_SCALE, LARGEST_SCALE = 14.0, 50.0  # of the contrastive logits


class ContrastiveHead(nn.Module):
    """Pooled image and text vectors to unit vectors that are compared by their dot product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = nn.Linear(width, width)
        self.text = nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def embed_image(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.image(pooled), dim=-1)

    def embed_text(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.text(pooled), dim=-1)

    @property
    def scale(self) -> Tensor:
        """What the dot products are multiplied by."""
        return self.log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()


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
