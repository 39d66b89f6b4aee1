"""EfficientNet: inverted residual blocks whose channels are weighed by what they saw, on average, of the picture.

Sources: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019; Sandler et al.,
"MobileNetV2", 2018; Hu et al., "Squeeze-and-excitation networks", 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mmkernels.models.config import ACTIVATIONS, MIDDLE, at_least, one_of
from mmkernels.models.pixels import Standardize
from mmkernels.models.transformer import ACTIVATION_MODULES

MOMENTUM = 0.01  # share of a batch in the running statistics


@dataclass(frozen=True)
class StageConfig:
    """A stage of EfficientNet: `blocks` alike, but that the first has the stride. `expand`: channels inside, times."""

    channels: int
    blocks: int = 1
    kernel: int = 3
    stride: int = 1
    expand: int = 6

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "kernel", "stride", "expand"):
            at_least(name, getattr(self, name), 1)
        one_of("stride", self.stride, (1, 2))
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")


@dataclass(frozen=True)
class EfficientNetConfig:
    """An EfficientNet that reads its last feature map as tokens.

    Args:
        stem: channels of the first convolution, which halves the picture.
        squeeze: channels that a block's channels are weighed by, as a share of what enters the block.
        symmetric: numbers of the blocks with a stride that pad all four sides; the others pad more at right and bottom.
        mean, spread: of the channels of RGB in [0, 1]; pictures are brought to zero mean and unit spread.
    """

    stages: tuple[StageConfig, ...]
    stem: int = 32
    side: int = 224
    squeeze: float = 0.25
    activation: str = "silu"
    norm_eps: float = 1e-3
    symmetric: tuple[int, ...] = ()
    mean: tuple[float, float, float] = MIDDLE
    spread: tuple[float, float, float] = MIDDLE

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must hold at least one, got none")
        at_least("stem", self.stem, 1)
        at_least("side", self.side, self.patch)
        one_of("activation", self.activation, ACTIVATIONS)

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.stages[-1].channels

    @property
    def patch(self) -> int:
        """Pixels of a token's side."""
        return 2 * math.prod(stage.stride for stage in self.stages)


class NormedConvolution(nn.Module):
    """Convolution, batch norm and, unless it is linear, the activation.

    Args:
        symmetric: pad all sides alike; otherwise a stride of 2 meets the pixels that it would meet in TensorFlow, whose
            padding of even sides is one pixel more at right and bottom.
    """

    def __init__(
        self, config: EfficientNetConfig, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, *,
        groups: int = 1, symmetric: bool = False, linear: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        half = kernel // 2
        lopsided = stride > 1 and not symmetric
        self.padding = (half - 1, half, half - 1, half) if lopsided else None
        self.convolution = nn.Conv2d(
            channels_in, channels_out, kernel, stride, 0 if lopsided else half, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(channels_out, eps=config.norm_eps, momentum=MOMENTUM)
        self.activation = nn.Identity() if linear else ACTIVATION_MODULES[config.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H / stride, W / stride)."""
        if self.padding is not None:
            x = F.pad(x, self.padding)
        return self.activation(self.norm(self.convolution(x)))


class SqueezeExcite(nn.Module):
    """Every channel times a number in (0, 1) that the means of all channels decide."""

    def __init__(self, config: EfficientNetConfig, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = ACTIVATION_MODULES[config.activation]()
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * self.expand(self.activation(self.reduce(means))).sigmoid()


class InvertedResidual(nn.Module):
    """Channels out wide, a convolution of each for itself, their weights, and in again.

    Args:
        first: of its stage, which has the stride and no residual.
    """

    def __init__(
        self, config: EfficientNetConfig, stage: StageConfig, channels: int, first: bool, symmetric: bool
    ) -> None:
        super().__init__()
        inside, stride = channels * stage.expand, stage.stride if first else 1
        self.residual = not first
        self.expand = NormedConvolution(config, channels, inside) if stage.expand > 1 else nn.Identity()
        self.depthwise = NormedConvolution(
            config, inside, inside, stage.kernel, stride, groups=inside, symmetric=symmetric
        )
        self.excite = SqueezeExcite(config, inside, max(1, int(channels * config.squeeze)))
        self.project = NormedConvolution(config, inside, stage.channels, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class EfficientNetTower(nn.Module):
    """An EfficientNet without its head; its last feature map is read as tokens."""

    prefix = 0  # tokens before those of the picture

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self.standardize = Standardize(config.mean, config.spread)
        self.stem = NormedConvolution(config, 3, config.stem, 3, 2)
        self.blocks = nn.ModuleList()
        channels = config.stem
        for stage in config.stages:
            for i in range(stage.blocks):
                symmetric = len(self.blocks) in config.symmetric
                self.blocks.append(InvertedResidual(config, stage, channels, i == 0, symmetric))
                channels = stage.channels

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB in [0, 1], (B, 3, S, S) -> tokens (B, N, width), row by row from the top left."""
        x = self.stem(self.standardize(pictures))
        for block in self.blocks:
            x = block(x)
        return x.flatten(2).transpose(1, 2)

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector per picture: (B, N, width) -> (B, width)."""
        return tokens.mean(1)
