"""Modality embedding: pictures and texts become tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkernels.bias import RelativeBias
from mmkernels.mask import Mask
from mmkernels.models.config import CnnConfig, TextConfig, VitConfig
from mmkernels.models.efficient_net import EfficientNetConfig, EfficientNetTower
from mmkernels.models.pixels import Standardize
from mmkernels.models.tokenizer import Tokens
from mmkernels.models.transformer import TransformerBlock, both, local, make_norm

POSITION_STD, WORD_STD = 0.02, 0.05


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


class CnnTower(nn.Module):
    """A residual CNN whose last feature map is read as tokens, (side / 8) ** 2 of them."""

    prefix = 0  # tokens before those of the picture

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.config = config
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
        self.position = nn.Parameter(torch.randn(1, (config.side // config.patch) ** 2, width) * POSITION_STD)
        self.norm = nn.LayerNorm(width)
        for step in self.features.modules():
            if isinstance(step, nn.Conv2d):  # oneDNN's fast layout
                step.weight.data = step.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB in [0, 1], (B, 3, S, S), S a multiple of 8 -> tokens (B, N, width), row by row from the top left."""
        x = (pictures * 2 - 1).contiguous(memory_format=torch.channels_last)
        x = self.features(x).flatten(2).transpose(1, 2)
        return self.norm(x + positions_of(self.position, x.shape[1]))

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector per picture: (B, N, width) -> (B, width)."""
        return tokens.mean(1)


class VitTower(nn.Module):
    """A vision Transformer over patches. Source: Dosovitskiy et al., "An image is worth 16x16 words", 2021."""

    def __init__(self, config: VitConfig, backend: str | None) -> None:
        super().__init__()
        self.config, blocks = config, config.blocks
        self.prefix = 1 if config.pool == "class" else 0
        self.patches = nn.Conv2d(3, blocks.width, config.patch, config.patch, bias=config.patch_bias)
        count = self.prefix + (config.side // config.patch) ** 2
        self.position = nn.Parameter(torch.randn(1, count, blocks.width) * POSITION_STD)
        if self.prefix:
            self.class_token = nn.Parameter(torch.randn(1, 1, blocks.width) * POSITION_STD)
        self.embedding_norm = make_norm(blocks) if config.embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(TransformerBlock(blocks, backend) for _ in range(blocks.layers))
        self.norm = make_norm(blocks)
        self.pooler = nn.Linear(blocks.width, blocks.width) if config.pooler else None
        self.standardize = Standardize(config.mean, config.spread)

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB in [0, 1], (B, 3, S, S), S a multiple of the patch -> tokens (B, [class +] N, width)."""
        x = self.patches(self.standardize(pictures)).flatten(2).transpose(1, 2)
        first, rest = self.position.split([self.prefix, self.position.shape[1] - self.prefix], 1)
        x = x + positions_of(rest, x.shape[1])
        if self.prefix:
            x = torch.cat([(self.class_token + first).expand(len(x), -1, -1), x], 1)
        x = self.embedding_norm(x)
        mask = local(self.config.blocks.window, causal=False)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector per picture: the class token, or the mean of the patches."""
        return dense_tanh(self.pooler, tokens[:, 0] if self.prefix else tokens.mean(1))


ImageTower = CnnTower | VitTower | EfficientNetTower


def image_tower(config: CnnConfig | VitConfig | EfficientNetConfig, backend: str | None) -> ImageTower:
    """The tower of a configuration."""
    if isinstance(config, EfficientNetConfig):
        return EfficientNetTower(config)
    return CnnTower(config) if isinstance(config, CnnConfig) else VitTower(config, backend)


def dense_tanh(pooler: nn.Linear | None, pooled: Tensor) -> Tensor:
    """What a pooler makes of pooled vectors; without one they stay as they are."""
    return pooled if pooler is None else pooler(pooled).tanh()


def positions_of(position: Tensor, count: int) -> Tensor:
    """Position embeddings of a square grid of `count` tokens, interpolated where it is not the one that they are of."""
    if position.shape[1] == count:
        return position
    was, now = math.isqrt(position.shape[1]), math.isqrt(count)
    grid = position.transpose(1, 2).unflatten(2, (was, was))
    return F.interpolate(grid, (now, now), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


class RelativePositions(nn.Module):
    """A learned bias for the distance of two tokens, in buckets that grow with it; as a table, never Lq x Lk.

    Source: Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020.
    """

    def __init__(self, heads: int, buckets: int, max_distance: int, bidirectional: bool) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional
        self.bias = nn.Embedding(buckets, heads)

    def forward(self, length: int) -> RelativeBias:
        """The bias between `length` queries and as many keys."""
        distance = torch.arange(1 - length, length, device=self.bias.weight.device)  # key - query
        return RelativeBias(self.bias(self.bucket(distance)).t())

    def bucket(self, distance: Tensor) -> Tensor:
        """Half of the buckets are one distance each, the others share what is left by its logarithm."""
        count = self.buckets // 2 if self.bidirectional else self.buckets
        side = (distance > 0) * count if self.bidirectional else torch.zeros_like(distance)
        far = distance.abs() if self.bidirectional else (-distance).clamp(min=0)
        exact = count // 2
        growth = torch.log(far.clamp(min=1) / exact) / math.log(self.max_distance / exact)
        large = (exact + (growth * (count - exact)).long()).clamp(max=count - 1)
        return side + torch.where(far < exact, far, large)


class TextTower(nn.Module):
    """Word and position embeddings, then Transformer blocks.

    Args:
        vocabulary: number of words; None where the words come embedded by another tower (T5's decoder).
    """

    def __init__(self, config: TextConfig, vocabulary: int | None, backend: str | None) -> None:
        super().__init__()
        self.config, blocks = config, config.blocks
        if vocabulary is not None:
            self.embedding = nn.Embedding(vocabulary, config.width, padding_idx=config.pad)
            nn.init.normal_(self.embedding.weight, std=WORD_STD)
        if config.position == "learned":
            self.position = nn.Parameter(torch.randn(1, config.length, config.width) * POSITION_STD)
        else:
            self.relative = RelativePositions(blocks.heads, config.buckets, config.max_distance, not config.causal)
        if config.token_types:
            self.token_type = nn.Embedding(config.token_types, config.width)
        self.embedding_norm = make_norm(blocks) if config.embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(TransformerBlock(blocks, backend) for _ in range(blocks.layers))
        self.norm = make_norm(blocks) if config.final_norm else nn.Identity()
        self.pooler = nn.Linear(config.width, config.width) if config.pooler else None

    def forward(self, tokens: Tokens, types: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, L, width); what stands at padded places is arbitrary.

        Args:
            types: of the tokens, (B, L), where the configuration has several; None: all are of the first.
        """
        x, mask, bias = self.begin(tokens, self.embedding, types)
        for block in self.blocks:
            x = block(x, mask, bias)
        return self.norm(x)

    def begin(
        self, tokens: Tokens, embedding: nn.Embedding, types: Tensor | None = None
    ) -> tuple[Tensor, Mask | None, RelativeBias | None]:
        """What the first block is given: embedded tokens, mask and bias.

        Raises:
            ValueError: more tokens than positions.
        """
        length, bias, x = tokens.ids.shape[1], None, embedding(tokens.ids)
        if self.config.position == "relative":
            bias = self.relative(length)
        elif length > self.config.length:
            raise ValueError(f"tokens have a length of {length}, expected at most {self.config.length} positions")
        else:
            x = x + self.position[:, :length]
        if self.config.token_types:
            x = x + (self.token_type.weight[0] if types is None else self.token_type(types))
        # Padding stands behind every real word, so that causality hides it too.
        real = None if self.config.causal else Mask.key_lengths(tokens.lengths)
        return self.embedding_norm(x), both(local(self.config.blocks.window, self.config.causal), real), bias

    def pool(self, x: Tensor, lengths: Tensor) -> Tensor:
        """One vector per text: (B, L, width) -> (B, width)."""
        if self.config.pool == "mean":
            pooled = mean_over_words(x, lengths)
        elif self.config.pool == "first":
            pooled = x[:, 0]
        else:
            pooled = x[torch.arange(len(x), device=x.device), lengths - 1]
        return dense_tanh(self.pooler, pooled)


def mean_over_words(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each text's real tokens: (B, L, width) -> (B, width)."""
    real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return (x * real[..., None]).sum(1) / lengths[:, None]
