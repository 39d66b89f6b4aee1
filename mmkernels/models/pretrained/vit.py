"""ViT as transformers has it: `ViTForImageClassification`, `ViTModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkernels.models.config import SystemConfig, VitConfig
from mmkernels.models.pretrained.architecture import Architecture, must_be, one_number, transformer
from mmkernels.models.pretrained.table import Row, under

BLOCK = (
    Row("attention_norm.*", "layernorm_before.*"),
    Row("attention.qkv.*", "attention.{q,k,v}_proj.*"),
    Row("attention.out.*", "attention.o_proj.*"),
    Row("mlp_norm.*", "layernorm_after.*"),
    Row("mlp.0.*", "mlp.fc1.*"),
    Row("mlp.2.*", "mlp.fc2.*"),
)

VISION = (
    Row("patches.*", "embeddings.patch_embeddings.projection.*"),
    Row("position", "embeddings.position_embeddings"),
    Row("class_token", "embeddings.cls_token"),
    *under("blocks.#", "layers.#", BLOCK),
    Row("norm.*", "layernorm.*"),
    Row("pooler.*", "pooler.dense.*"),
)

BEFORE_5 = (
    (r"encoder\.layer\.", "layers."),
    (r"attention\.attention\.query", "attention.q_proj"),
    (r"attention\.attention\.key", "attention.k_proj"),
    (r"attention\.attention\.value", "attention.v_proj"),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
)
"""Names in published files, which transformers still writes."""


def configure(config: Any, tensors: Mapping[str, Tensor] | None) -> SystemConfig:
    """Of a `ViTConfig`; with a pooler where the weights have one."""
    must_be(config, num_channels=3, qkv_bias=True)
    pooler = tensors is not None and "vit.pooler.dense.weight" in tensors
    if pooler:
        must_be(config, pooler_act="tanh", pooler_output_size=config.hidden_size)
    side, patch = one_number("image_size", config.image_size), one_number("patch_size", config.patch_size)
    classified = tensors is None or ARCHITECTURE.heads["classification"] in tensors
    return SystemConfig(
        image=VitConfig(transformer(config), side, patch, pool="class", pooler=pooler),
        classes=config.num_labels if classified else None,
    )


ARCHITECTURE = Architecture(
    name="vit",
    heads={"classification": "classifier.weight"},
    rows=(*under("image_tower", "vit", VISION), Row("heads.classification.*", "classifier.*")),
    configure=configure,
    renames=((r"^(?=embeddings\.|encoder\.|layers\.|layernorm\.|pooler\.)", "vit."), *BEFORE_5),
    left_out=(
        (r"vit\.embeddings\.mask_token", "hidden patches are grey here"),
        (r"decoder\..+", "a decoder of pixels of another kind than here"),
    ),
)
