"""Modality embedding: pictures and texts become tokens of the same width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkernels.models.interaction import TransformerBlock
from mmkernels.models.presets import ModelConfig
from mmkernels.models.tokenizer import PAD, Tokens

STRIDE = 8  # pixels a token
MAX_TEXT = 40


class ConvolutionStep(nn.Sequential):
    """3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


class Residual(nn.Module):
    """x + step(x)."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return x + self.step(x)


class ImageTower(nn.Module):
    """A residual CNN whose last feature map is read as tokens.

    Args:
        side: pixels of a picture's side; there are (side / 8) ** 2 tokens.
    """

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        first, second = config.stem
        width = config.width
        self.features = nn.Sequential(
            ConvolutionStep(3, first, stride=2),
            ConvolutionStep(first, second, stride=2),
            Residual(ConvolutionStep(second, second)),
            ConvolutionStep(second, width, stride=2),
            Residual(ConvolutionStep(width, width)),
            Residual(ConvolutionStep(width, width)),
        )
        self.position = nn.Parameter(torch.randn(1, (side // STRIDE) ** 2, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        for step in self.features.modules():
            if isinstance(step, nn.Conv2d):  # oneDNN's fast layout
                step.weight.data = step.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB in [0, 1], (B, 3, side, side) -> tokens (B, N, width), row by row from the top left."""
        x = (pictures * 2 - 1).contiguous(memory_format=torch.channels_last)
        return self.norm(self.features(x).flatten(2).transpose(1, 2) + self.position)


class TextTower(nn.Module):
    """Word and position embeddings, then Transformer blocks that see every real word."""

    def __init__(self, config: ModelConfig, vocabulary: int, backend: str | None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.position = nn.Parameter(torch.randn(1, MAX_TEXT, config.width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(config, backend) for _ in range(config.text_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, L) -> (B, L, width); what stands at padded places is arbitrary."""
        x = self.embedding(tokens.ids) + self.position[:, : tokens.ids.shape[1]]
        for block in self.blocks:
            x = block(x, tokens.lengths)
        return self.norm(x)


def mean_over_words(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each text's real tokens: (B, L, width) -> (B, width)."""
    real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return (x * real[..., None]).sum(1) / lengths[:, None]
