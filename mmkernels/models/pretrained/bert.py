"""BERT as transformers has it: `BertForPreTraining`, `BertForMaskedLM`, `BertModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkernels.models.config import SystemConfig, TextConfig
from mmkernels.models.pretrained.architecture import POSITION_NUMBERS, Architecture, must_be, transformer
from mmkernels.models.pretrained.table import Row, under

BLOCK = (
    Row("attention.qkv.*", "attention.self.{query,key,value}.*"),
    Row("attention.out.*", "attention.output.dense.*"),
    Row("attention_norm.*", "attention.output.LayerNorm.*"),
    Row("mlp.0.*", "intermediate.dense.*"),
    Row("mlp.2.*", "output.dense.*"),
    Row("mlp_norm.*", "output.LayerNorm.*"),
)

TEXT = (
    Row("embedding.weight", "embeddings.word_embeddings.weight"),
    Row("position", "embeddings.position_embeddings.weight", axes=1),
    Row("token_type.weight", "embeddings.token_type_embeddings.weight"),
    Row("embedding_norm.*", "embeddings.LayerNorm.*"),
    *under("blocks.#", "encoder.layer.#", BLOCK),
    Row("pooler.*", "pooler.dense.*"),
)

HEAD = (
    Row("transform.*", "transform.dense.*"),
    Row("norm.*", "transform.LayerNorm.*"),
    Row("bias", "bias"),
)


def text_tower(config: Any, pooler: bool) -> TextConfig:
    """BERT's text tower; ALIGN has one as well."""
    must_be(config, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute")
    return TextConfig(
        transformer(config, norm_first=False),
        length=config.max_position_embeddings,
        pool="first",
        token_types=config.type_vocab_size,
        embedding_norm=True,
        final_norm=False,
        pooler=pooler,
        pad=config.pad_token_id,
    )


def configure(config: Any, tensors: Mapping[str, Tensor] | None) -> SystemConfig:
    """Of a `BertConfig`; with a pooler where the weights have one."""
    pooler = tensors is not None and "bert.pooler.dense.weight" in tensors
    return SystemConfig(text=text_tower(config, pooler), vocabulary=config.vocab_size)


ARCHITECTURE = Architecture(
    name="bert",
    heads={"masked_words": "cls.predictions.transform.dense.weight"},
    rows=(*under("text_tower", "bert", TEXT), *under("heads.masked_words", "cls.predictions", HEAD)),
    configure=configure,
    renames=(
        (r"^(?=embeddings\.|encoder\.|pooler\.)", "bert."),
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
    ),
    same={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    left_out=(
        POSITION_NUMBERS,
        (r"cls\.seq_relationship\..+", "no objective here asks whether one sentence follows another"),
        (r"(classifier|qa_outputs)\..+", "the head of a task that is none of the objectives here"),
    ),
)
