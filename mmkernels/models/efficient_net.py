"""EfficientNet: inverted residual blocks whose channels are weighed by what they saw, on average, of the picture.

Sources: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019; Sandler et al.,
"MobileNetV2", 2018; Hu et al., "Squeeze-and-excitation networks", 2018.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmkernels.models.config import EfficientNetConfig, StageConfig
from mmkernels.models.pixels import Standardize
from mmkernels.models.transformer import ACTIVATION_MODULES

MOMENTUM = 0.01  # share of a batch in the running statistics


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
