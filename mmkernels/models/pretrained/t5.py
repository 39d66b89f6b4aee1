"""T5 and FLAN-T5 as transformers has them: `T5ForConditionalGeneration`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mmkernels.models.config import DecoderConfig, SystemConfig, TextConfig, TransformerConfig
from mmkernels.models.pretrained.architecture import Architecture, activation
from mmkernels.models.pretrained.table import Row, under

SELF_ATTENTION = (
    Row("attention_norm.*", "layer.0.layer_norm.*"),
    Row("attention.qkv.*", "layer.0.SelfAttention.{q,k,v}.*"),
    Row("attention.out.*", "layer.0.SelfAttention.o.*"),
)

CROSS_ATTENTION = (
    Row("cross_norm.*", "layer.1.layer_norm.*"),
    Row("cross.q.*", "layer.1.EncDecAttention.q.*"),
    Row("cross.kv.*", "layer.1.EncDecAttention.{k,v}.*"),
    Row("cross.out.*", "layer.1.EncDecAttention.o.*"),
)

MLP = (
    Row("mlp_norm.*", "layer_norm.*"),
    Row("mlp.0.*", "DenseReluDense.wi.*"),
    Row("mlp.2.*", "DenseReluDense.wo.*"),
    Row("mlp.gate.*", "DenseReluDense.wi_0.*"),
    Row("mlp.up.*", "DenseReluDense.wi_1.*"),
    Row("mlp.down.*", "DenseReluDense.wo.*"),
)

STACK = (
    Row("relative.bias.weight", "block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    *under("blocks.#", "block.#", SELF_ATTENTION),
    Row("norm.*", "final_layer_norm.*"),
)


def configure(config: Any, tensors: Mapping[str, Tensor] | None) -> SystemConfig:
    """Of a `T5Config`: tied and scaled output of the first T5, or the layer of its own that 1.1 and FLAN have."""
    blocks = TransformerConfig(
        config.d_model,
        config.num_heads,
        config.num_layers,
        config.d_ff,
        config.d_kv,
        activation=activation(config.dense_act_fn),
        gated=config.is_gated_act,
        norm="rms",
        norm_eps=config.layer_norm_epsilon,
        bias=False,
        scale=1.0,
    )
    text = TextConfig(
        blocks,
        position="relative",
        buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        pad=None,
    )
    writer = replace(text, blocks=replace(blocks, layers=config.num_decoder_layers), causal=True)
    tied = config.scale_decoder_outputs
    return SystemConfig(
        text=text,
        decoder=DecoderConfig(writer, look="cross", tied=tied, tied_scale=tied),
        vocabulary=config.vocab_size,
        shared_words=True,
    )


ARCHITECTURE = Architecture(
    name="t5",
    heads={"text_to_text": "decoder.final_layer_norm.weight"},
    rows=(
        Row("text_tower.embedding.weight", "shared.weight"),
        *under("text_tower", "encoder", STACK),
        *under("text_tower.blocks.#", "encoder.block.#.layer.1", MLP),
        *under("decoder.text", "decoder", STACK),
        *under("decoder.looks.#", "decoder.block.#", CROSS_ATTENTION),
        *under("decoder.text.blocks.#", "decoder.block.#.layer.2", MLP),
        Row("decoder.words.weight", "lm_head.weight"),
    ),
    configure=configure,
    same={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    left_out=(
        (
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
            "published by accident: attention to the encoder has no bias",
        ),
        (r"(classification_head|classifier|qa_outputs)\..+", "the head of a task that is none of the objectives here"),
    ),
)
