"""CLIP as transformers has it: `CLIPModel`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkernels.models.config import ContrastiveConfig, SystemConfig, TextConfig, VitConfig
from mmkernels.models.presets.clip import LARGEST_SCALE, MEAN, SCALE, SPREAD
from mmkernels.models.pretrained.architecture import (
    POSITION_NUMBERS,
    Architecture,
    must_be,
    one_number,
    transformer,
)
from mmkernels.models.pretrained.table import Row, under

BLOCK = (
    Row("attention_norm.*", "layer_norm1.*"),
    Row("attention.qkv.*", "self_attn.{q,k,v}_proj.*"),
    Row("attention.out.*", "self_attn.out_proj.*"),
    Row("mlp_norm.*", "layer_norm2.*"),
    Row("mlp.0.*", "mlp.fc1.*"),
    Row("mlp.2.*", "mlp.fc2.*"),
)

VISION = (
    Row("patches.weight", "embeddings.patch_embedding.weight"),
    Row("position", "embeddings.position_embedding.weight", axes=1),
    Row("class_token", "embeddings.class_embedding", axes=2),
    Row("embedding_norm.*", "pre_layrnorm.*"),
    *under("blocks.#", "encoder.layers.#", BLOCK),
    Row("norm.*", "post_layernorm.*"),
)

TEXT = (
    Row("embedding.weight", "embeddings.token_embedding.weight"),
    Row("position", "embeddings.position_embedding.weight", axes=1),
    *under("blocks.#", "encoder.layers.#", BLOCK),
    Row("norm.*", "final_layer_norm.*"),
)

HEAD = (
    Row("image.weight", "visual_projection.weight"),
    Row("text.weight", "text_projection.weight"),
    Row("log_scale", "logit_scale"),
)


def configure(config: Any, tensors: Mapping[str, Tensor] | None) -> SystemConfig:
    """Of a `CLIPConfig`. A text's vector is that of its last token, which its tokenizer makes the end of text.

    The scale of the dot products is held below 100, as in training, unless the weights are above it.
    """
    text, vision = config.text_config, config.vision_config
    must_be(vision, num_channels=3)
    start = 0.0 if tensors is None else float(tensors.get("logit_scale", 0.0))
    largest = LARGEST_SCALE if start < math.log(LARGEST_SCALE) + 1e-6 else None
    return SystemConfig(
        image=VitConfig(
            transformer(vision),
            one_number("image_size", vision.image_size),
            one_number("patch_size", vision.patch_size),
            pool="class",
            patch_bias=False,
            embedding_norm=True,
            mean=MEAN,
            spread=SPREAD,
        ),
        text=TextConfig(transformer(text), length=text.max_position_embeddings, causal=True, pool="last", pad=None),
        contrastive=ContrastiveConfig(config.projection_dim, False, SCALE, largest),
        vocabulary=text.vocab_size,
    )


ARCHITECTURE = Architecture(
    name="clip",
    heads={"contrastive": "logit_scale"},
    rows=(
        *under("image_tower", "vision_model", VISION),
        *under("text_tower", "text_model", TEXT),
        *under("heads.contrastive", "", HEAD),
    ),
    configure=configure,
    left_out=(POSITION_NUMBERS,),
)
