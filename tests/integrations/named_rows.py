"""Two-tower and single-stream models that transformers serves by its attention interface, and its eager-only kin."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

from tests.integrations.rows import Row, ids, padding, real

TEXT = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
    "max_position_embeddings": 64,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37, "image_size": 30,
    "patch_size": 10,
}  # fmt: skip


def pixels(batch: int = 2, size: int = 30) -> torch.Tensor:
    return torch.randn(batch, 3, size, size)


def text_inputs(model: Any) -> dict[str, Any]:
    return {"input_ids": ids((2, 9)), "attention_mask": padding()}


def text_and_pixels(model: Any) -> dict[str, Any]:
    return text_inputs(model) | {"pixel_values": pixels()}


def last_hidden(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [real(out.last_hidden_state, inputs["attention_mask"])]


def two_towers(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    text = real(out.text_model_output.last_hidden_state, inputs["attention_mask"])
    return [text, out.vision_model_output.last_hidden_state, out.text_embeds, out.image_embeds]


def clip() -> Any:
    config = tf.CLIPConfig(text_config=TEXT | {"eos_token_id": 98}, vision_config=VISION, projection_dim=16)
    return tf.CLIPModel._from_config(config, attn_implementation="eager")


def clip_inputs(model: Any) -> dict[str, Any]:
    inputs = text_and_pixels(model)
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        inputs["input_ids"][row, length - 1] = 98  # the pooled token is the end of the text
    return inputs


def siglip() -> Any:
    config = tf.SiglipConfig(text_config=TEXT, vision_config=VISION)
    return tf.SiglipModel._from_config(config, attn_implementation="eager")


def bert() -> Any:
    return tf.BertModel._from_config(tf.BertConfig(**TEXT), attn_implementation="eager")


def vit() -> Any:
    return tf.ViTModel._from_config(tf.ViTConfig(**VISION), attn_implementation="eager")


def align() -> Any:
    vision = {
        "image_size": 32, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 32,
        "num_block_repeats": [1], "kernel_sizes": [3], "in_channels": [32], "out_channels": [16], "strides": [2],
        "expand_ratios": [1], "depthwise_padding": [], "num_hidden_layers": 1,
    }  # fmt: skip
    config = tf.AlignConfig(text_config=TEXT, vision_config=vision, projection_dim=16)
    return tf.AlignModel._from_config(config, attn_implementation="eager")


def siglip_outputs(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [real(out.text_model_output.last_hidden_state, inputs["attention_mask"]), out.image_embeds]


ROWS = [
    Row("CLIP", clip, clip_inputs, two_towers, 4, patched=False, slow=False),
    Row("CLIP, patched", clip, clip_inputs, two_towers, 4),
    Row("SigLIP", siglip, text_and_pixels, siglip_outputs, 5),
    Row("BERT", bert, text_inputs, last_hidden, 2, patched=False, slow=False),
    Row("ViT", vit, lambda m: {"pixel_values": pixels()}, lambda o, i: [o.last_hidden_state], 2, patched=False),
    Row("ALIGN", align, lambda m: text_inputs(m) | {"pixel_values": pixels(2, 32)},
        lambda o, i: [real(o.text_model_output.last_hidden_state, i["attention_mask"]), o.image_embeds], 2),
]  # fmt: skip
