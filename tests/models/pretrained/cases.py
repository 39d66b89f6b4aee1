"""Tiny models of transformers, and how to ask both sides for the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.models.presets import clip
from mmkernels.models.tokenizer import Tokens
from mmkernels.models.zoo.decoder import Context
from mmkernels.models.zoo.objectives import OBJECTIVES
from tests.integrations import rows
from tests.integrations.rows import ids, padding, real

Inputs = dict[str, Tensor]
Outputs = dict[str, Tensor]

TEXT: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
    "max_position_embeddings": 20,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 41, "image_size": 30,
    "patch_size": 10,
}  # fmt: skip
END = 98  # of a text


@dataclass(frozen=True)
class Case:
    """A model, what goes in, and what comes out of it and of the system that has its weights, by name.

    Attributes:
        calls: attention calls of one forward, on either side.
        swaps: pairs of tensors of one shape; exchanged, they must be seen in the outputs.
    """

    name: str
    architecture: str
    build: Callable[[], Any]
    inputs: Callable[[], Inputs]
    theirs: Callable[[Any, Inputs], Outputs]
    ours: Callable[[Any, Inputs], Outputs]
    calls: int
    swaps: tuple[tuple[str, str], ...]


def randomize(model: nn.Module) -> Any:
    """Every parameter and every buffer of a state_dict random: what starts as 0 or 1 hides errors."""
    rows.randomize(model)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(7)
        else:
            assert name not in model.state_dict(), f"{name} is not random"
    return model


def made(case: Case) -> tuple[Any, Inputs]:
    torch.manual_seed(0)
    model = randomize(case.build())
    return model, case.inputs()


def texts() -> Inputs:
    found = {"input_ids": ids((2, 9)), "attention_mask": padding()}
    found["input_ids"][0, 2] = 0  # a word like any other to CLIP and T5; BERT's does not learn
    return found


def tokens(inputs: Inputs, prefix: str = "") -> Tokens:
    return Tokens(inputs[f"{prefix}input_ids"], inputs[f"{prefix}attention_mask"].sum(1))


def pictures(inputs: Inputs, mean: Any = (0.5,) * 3, spread: Any = (0.5,) * 3) -> Tensor:
    """As transformers' picture processors hand them to models."""
    return (inputs["pictures"] - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(spread).view(-1, 1, 1)


# ---- CLIP ----


def clip_model(**changes: Any) -> tf.CLIPModel:
    text = TEXT | {"eos_token_id": END} | changes.get("text", {})
    vision = VISION | changes.get("vision", {})
    return tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))


def clip_inputs() -> Inputs:
    found = texts() | {"pictures": torch.rand(3, 3, 30, 30)}
    for row, length in enumerate(found["attention_mask"].sum(1)):
        found["input_ids"][row, length - 1] = END
    return found


def clip_theirs(model: Any, inputs: Inputs) -> Outputs:
    out = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
        pixel_values=pictures(inputs, clip.MEAN, clip.SPREAD),
    )  # fmt: skip
    patches = model.vision_model.post_layernorm(out.vision_model_output.last_hidden_state)
    return two_towers(out, inputs, patches)


def two_towers(out: Any, inputs: Inputs, patches: Tensor) -> Outputs:
    return {
        "picture tokens": patches,
        "words": real(out.text_model_output.last_hidden_state, inputs["attention_mask"]),
        "picture vectors": out.image_embeds,
        "text vectors": out.text_embeds,
        "logits": out.logits_per_image,
    }


def contrastive_ours(system: Any, inputs: Inputs) -> Outputs:
    head, read = system.heads["contrastive"], tokens(inputs)
    seen, words = system.see(inputs["pictures"]), system.read(read)
    images = head.embed_image(system.picture_vector(seen))
    vectors = head.embed_text(system.text_vector(words, read.lengths))
    return {
        "picture tokens": seen,
        "words": real(words, inputs["attention_mask"]),
        "picture vectors": images,
        "text vectors": vectors,
        "logits": head.scale * images @ vectors.T,
    }


# ---- ALIGN ----


def align_model(depthwise_padding: tuple[int, ...] = ()) -> tf.AlignModel:
    vision = {
        "image_size": 45, "width_coefficient": 0.5, "depth_coefficient": 1.4, "hidden_dim": 64,
        "num_block_repeats": [1, 2, 1], "kernel_sizes": [3, 5, 3], "in_channels": [32, 24, 40],
        "out_channels": [24, 40, 48], "strides": [1, 2, 2], "expand_ratios": [1, 4, 2],
        "depthwise_padding": list(depthwise_padding),
    }  # fmt: skip
    return tf.AlignModel(tf.AlignConfig(text_config=TEXT, vision_config=vision, projection_dim=24))


def align_theirs(model: Any, inputs: Inputs) -> Outputs:
    out = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pictures(inputs)
    )  # fmt: skip
    return two_towers(out, inputs, out.vision_model_output.last_hidden_state.flatten(2).transpose(1, 2))


# ---- ViT ----


def vit_theirs(model: Any, inputs: Inputs) -> Outputs:
    return {"logits": model(pixel_values=pictures(inputs)).logits}


def vit_ours(system: Any, inputs: Inputs) -> Outputs:
    return {"logits": OBJECTIVES["classification"].logits(system, system.see(inputs["pictures"]))}


def vit_model_theirs(model: Any, inputs: Inputs) -> Outputs:
    out = model(pixel_values=pictures(inputs))
    return {"tokens": out.last_hidden_state, "vectors": out.pooler_output}


def vit_model_ours(system: Any, inputs: Inputs) -> Outputs:
    seen = system.see(inputs["pictures"])
    return {"tokens": seen, "vectors": system.picture_vector(seen)}


# ---- BERT ----


def bert_inputs() -> Inputs:
    return texts() | {"token_type_ids": torch.tensor([[0] * 4 + [1] * 5] * 2)}


def bert_theirs(model: Any, inputs: Inputs) -> Outputs:
    out = model(**inputs)
    if hasattr(out, "prediction_logits"):
        return {"logits": real(out.prediction_logits, inputs["attention_mask"])}
    if hasattr(out, "logits"):
        return {"logits": real(out.logits, inputs["attention_mask"])}
    return {"words": real(out.last_hidden_state, inputs["attention_mask"]), "vectors": out.pooler_output}


def bert_ours(system: Any, inputs: Inputs) -> Outputs:
    read = tokens(inputs)
    words = system.text_tower(read, inputs.get("token_type_ids"))
    if "masked_words" in system.heads:
        head = system.heads["masked_words"]
        return {"logits": head(real(words, inputs["attention_mask"]), system.text_tower.embedding)}
    return {"words": real(words, inputs["attention_mask"]), "vectors": system.text_vector(words, read.lengths)}


# ---- T5 ----

T5: dict[str, Any] = {
    "vocab_size": 99, "d_model": 32, "d_kv": 10, "d_ff": 37, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "decoder_start_token_id": 0,
}  # fmt: skip


def t5_of_flan() -> tf.T5ForConditionalGeneration:
    """Gated, with an output layer of its own: as published files are loaded."""
    config = tf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = tf.T5ForConditionalGeneration(config)
    model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


def t5_inputs() -> Inputs:
    found = texts() | {"decoder_input_ids": ids((2, 7)), "decoder_attention_mask": padding(length=7, short=4)}
    found["decoder_input_ids"][:, 0] = 0  # <pad> is what it starts from
    return found


def t5_theirs(model: Any, inputs: Inputs) -> Outputs:
    out = model(**inputs)
    return {
        "read": real(out.encoder_last_hidden_state, inputs["attention_mask"]),
        "logits": real(out.logits, inputs["decoder_attention_mask"]),
    }


def t5_ours(system: Any, inputs: Inputs) -> Outputs:
    read, fed = tokens(inputs), tokens(inputs, "decoder_")
    words = system.read(read)
    logits = system.write(fed, Context(words, Mask.key_lengths(read.lengths)))
    return {
        "read": real(words, inputs["attention_mask"]),
        "logits": real(logits, inputs["decoder_attention_mask"]),
    }


CLIP_SWAPS = (
    ("text_model.encoder.layers.0.self_attn.k_proj.weight", "text_model.encoder.layers.0.self_attn.v_proj.weight"),
    ("vision_model.encoder.layers.1.layer_norm1.bias", "vision_model.encoder.layers.1.layer_norm2.bias"),
    ("vision_model.pre_layrnorm.weight", "vision_model.post_layernorm.weight"),
    ("vision_model.encoder.layers.0.mlp.fc1.weight", "vision_model.encoder.layers.2.mlp.fc1.weight"),
)
VIT_SWAPS = (
    ("layers.0.layernorm_before.weight", "layers.0.layernorm_after.weight"),
    ("layers.2.attention.q_proj.weight", "layers.2.attention.o_proj.weight"),
)
BERT_SWAPS = (
    ("encoder.layer.1.attention.output.LayerNorm.weight", "encoder.layer.1.output.LayerNorm.weight"),
    ("encoder.layer.0.attention.self.query.bias", "encoder.layer.0.attention.self.value.bias"),
)
T5_SWAPS = (
    ("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.0.SelfAttention.k.weight"),
    ("decoder.block.1.layer.1.EncDecAttention.k.weight", "decoder.block.1.layer.1.EncDecAttention.v.weight"),
    ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
     "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ("decoder.block.2.layer.0.layer_norm.weight", "decoder.block.2.layer.1.layer_norm.weight"),
)  # fmt: skip
ALIGN_SWAPS = (
    ("vision_model.encoder.blocks.0.depthwise_conv.depthwise_norm.running_mean",
     "vision_model.encoder.blocks.0.depthwise_conv.depthwise_norm.running_var"),
    ("vision_model.encoder.blocks.2.expansion.expand_bn.weight",
     "vision_model.encoder.blocks.2.depthwise_conv.depthwise_norm.weight"),
    ("text_model.encoder.layer.0.attention.self.key.weight", "text_model.encoder.layer.0.attention.self.value.weight"),
)  # fmt: skip


def under(prefix: str, swaps: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((prefix + first, prefix + second) for first, second in swaps)


CASES = [
    Case("CLIP", "clip", clip_model, clip_inputs, clip_theirs, contrastive_ours, 5, CLIP_SWAPS),
    Case("CLIP, gelu", "clip", lambda: clip_model(
        text={"hidden_act": "gelu", "layer_norm_eps": 1e-3}, vision={"hidden_act": "gelu_new"}),
        clip_inputs, clip_theirs, contrastive_ours, 5, CLIP_SWAPS[:1]),
    Case("ALIGN", "align", align_model, lambda: texts() | {"pictures": torch.rand(3, 3, 45, 45)}, align_theirs,
        contrastive_ours, 2, ALIGN_SWAPS),
    Case("ALIGN, odd sides", "align", lambda: align_model((2, 5)),
        lambda: texts() | {"pictures": torch.rand(3, 3, 45, 45)}, align_theirs, contrastive_ours, 2, ALIGN_SWAPS[:1]),
    Case("ViT", "vit", lambda: tf.ViTForImageClassification(tf.ViTConfig(**VISION, num_labels=7)),
        lambda: {"pictures": torch.rand(3, 3, 30, 30)}, vit_theirs, vit_ours, 3, under("vit.", VIT_SWAPS)),
    Case("ViT with pooler", "vit", lambda: tf.ViTModel(tf.ViTConfig(**VISION)),
        lambda: {"pictures": torch.rand(3, 3, 30, 30)}, vit_model_theirs, vit_model_ours, 3, VIT_SWAPS),
    Case("BERT", "bert", lambda: tf.BertForMaskedLM(tf.BertConfig(**TEXT)), bert_inputs, bert_theirs, bert_ours, 2,
        under("bert.", BERT_SWAPS)),
    Case("BERT, one type of tokens", "bert", lambda: tf.BertForPreTraining(tf.BertConfig(**TEXT)), texts, bert_theirs,
        bert_ours, 2, under("bert.", BERT_SWAPS[:1])),
    Case("BERT with pooler", "bert", lambda: tf.BertModel(tf.BertConfig(**TEXT)), bert_inputs, bert_theirs, bert_ours,
        2, BERT_SWAPS),
    Case("T5", "t5", lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)), t5_inputs, t5_theirs, t5_ours, 8,
        T5_SWAPS),
    Case("FLAN-T5", "t5", t5_of_flan, t5_inputs, t5_theirs, t5_ours, 8,
        (*T5_SWAPS, ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
                     "encoder.block.0.layer.1.DenseReluDense.wi_1.weight"))),
]  # fmt: skip
