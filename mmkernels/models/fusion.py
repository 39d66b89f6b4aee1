"""Concat-fusion: features of both modalities side by side through one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from mmkernels.nn import ConcatFusion


class CaptionFusion(nn.Module):
    """Every word beside the one vector of its picture. The vector is multiplied once a picture, not once a word."""

    def __init__(self, width: int, backend: str | None) -> None:
        super().__init__()
        self.fuse = ConcatFusion([width, width], width, backend=backend)

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        """words (B, L, width), image (B, width) -> (B, L, width)."""
        return self.fuse([words, image[:, None]])


class AnswerFusion(nn.Module):
    """A question that has seen the picture, the question as asked, and the picture, side by side."""

    def __init__(self, width: int, backend: str | None) -> None:
        super().__init__()
        self.fuse = ConcatFusion([width, width, width], 2 * width, activation="gelu", backend=backend)

    def forward(self, seen: Tensor, asked: Tensor, image: Tensor) -> Tensor:
        """seen, asked (B * k, width), image (B, width) -> (B * k, 2 * width)."""
        count, width = image.shape
        fused = self.fuse([seen.view(count, -1, width), asked.view(count, -1, width), image[:, None]])
        return fused.flatten(0, 1)
