"""What every picture goes through before the first product of a tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """`(x - mean) / spread` per channel: about zero mean and unit spread. Part of the configuration, not of weights."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: tuple[float, ...], spread: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(spread).view(-1, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, C, S, S) -> the same."""
        return (pictures - self.mean) / self.spread
