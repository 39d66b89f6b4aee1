"""ALIGN as transformers has it: `AlignModel`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkernels.models.config import ContrastiveConfig, SystemConfig
from mmkernels.models.efficient_net import EfficientNetConfig, StageConfig
from mmkernels.models.presets.align import B0_STEM, scaled_channels
from mmkernels.models.pretrained import bert
from mmkernels.models.pretrained.architecture import (
    POSITION_NUMBERS,
    Architecture,
    activation,
    must_be,
    one_number,
)
from mmkernels.models.pretrained.table import Row, under

BLOCK = (
    Row("expand.convolution.*", "expansion.expand_conv.*"),
    Row("expand.norm.*", "expansion.expand_bn.*"),
    Row("depthwise.convolution.*", "depthwise_conv.depthwise_conv.*"),
    Row("depthwise.norm.*", "depthwise_conv.depthwise_norm.*"),
    Row("excite.reduce.*", "squeeze_excite.reduce.*"),
    Row("excite.expand.*", "squeeze_excite.expand.*"),
    Row("project.convolution.*", "projection.project_conv.*"),
    Row("project.norm.*", "projection.project_bn.*"),
)

VISION = (
    Row("stem.convolution.*", "embeddings.convolution.*"),
    Row("stem.norm.*", "embeddings.batchnorm.*"),
    *under("blocks.#", "encoder.blocks.#", BLOCK),
)

HEAD = (
    Row("text.*", "text_projection.*"),
    Row("temperature", "temperature"),
)


def configure(config: Any, tensors: Mapping[str, Tensor] | None) -> SystemConfig:
    """Of an `AlignConfig`."""
    must_be(config.vision_config, num_channels=3, pooling_type="mean")
    return SystemConfig(
        image=efficient_net(config.vision_config),
        text=bert.text_tower(config.text_config, pooler=False),
        contrastive=ContrastiveConfig(
            config.projection_dim,
            scale=1 / config.temperature_init_value,
            largest_scale=None,
            temperature=True,
            project_image=False,
        ),
        vocabulary=config.text_config.vocab_size,
    )


def efficient_net(config: Any) -> EfficientNetConfig:
    """Its image tower, with the coefficients of the configuration multiplied out."""

    def channels(count: int) -> int:
        return scaled_channels(count, config.width_coefficient, config.depth_divisor)

    enters, leaves = [B0_STEM, *config.out_channels[:-1]], config.in_channels
    if [channels(count) for count in enters] != [channels(count) for count in leaves]:
        raise ValueError(f"in_channels must be what the stage before gives, {enters}, got {leaves}")
    return EfficientNetConfig(
        tuple(
            StageConfig(channels(count), math.ceil(config.depth_coefficient * blocks), kernel, stride, expand)
            for count, blocks, kernel, stride, expand in zip(
                config.out_channels,
                config.num_block_repeats,
                config.kernel_sizes,
                config.strides,
                config.expand_ratios,
                strict=True,
            )
        ),
        stem=channels(B0_STEM),
        side=one_number("image_size", config.image_size),
        squeeze=config.squeeze_expansion_ratio,
        activation=activation(config.hidden_act),
        norm_eps=config.batch_norm_eps,
        symmetric=tuple(config.depthwise_padding),
    )


ARCHITECTURE = Architecture(
    name="align",
    heads={"contrastive": "temperature"},
    rows=(
        *under("image_tower", "vision_model", VISION),
        *under("text_tower", "text_model", bert.TEXT),
        *under("heads.contrastive", "", HEAD),
    ),
    configure=configure,
    left_out=(
        POSITION_NUMBERS,
        (r"text_model\.pooler\..+", "ALIGN compares the first token as it is"),
    ),
)
