"""Concat-fusion: features of both modalities side by side through one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmkernels.nn import ConcatFusion


class CaptionFusion(nn.Module):
    """Every word beside the one vector of its picture. The vector is multiplied once a picture, not once a word."""

    def __init__(self, width: int, image_width: int, backend: str | None) -> None:
        super().__init__()
        self.fuse = ConcatFusion([width, image_width], width, backend=backend)

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        """words (B, L, width), image (B, image_width) -> (B, L, width)."""
        return self.fuse([words, image[:, None]])


class AnswerFusion(nn.Module):
    """Vectors of a text, as asked or having seen the picture, and the picture's, side by side.

    Args:
        widths: of the texts' vectors, then of the picture's.
        width: of the output.
    """

    def __init__(self, widths: Sequence[int], width: int, backend: str | None) -> None:
        super().__init__()
        self.fuse = ConcatFusion(widths, width, activation="gelu", backend=backend)

    def forward(self, texts: Sequence[Tensor], image: Tensor) -> Tensor:
        """texts (B * k, widths[i]), k about each image (B, widths[-1]), following each other -> (B * k, width)."""
        count = len(image)
        fused = self.fuse([*(text.view(count, -1, text.shape[-1]) for text in texts), image[:, None]])
        return fused.flatten(0, 1)
