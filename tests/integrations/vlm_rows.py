"""Language models that take an image's tokens into their own stream."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

from tests.integrations.cross_rows import image_tokens, logits
from tests.integrations.named_rows import VISION, pixels
from tests.integrations.rows import Row, padding

DECODER = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 37, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def tokens(count: int, left: bool = False) -> dict[str, Any]:
    """Ids with `count` image tokens, after the padding where that is on the left."""
    inputs = {"input_ids": image_tokens(count), "attention_mask": padding(2, 9 + count, 5 + count, left)}
    if left:
        inputs["input_ids"] = inputs["input_ids"].roll(4, 1)
    return inputs | {"use_cache": False}


def llava() -> Any:
    config = tf.LlavaConfig(
        text_config=DECODER | {"model_type": "llama"}, image_token_index=98, vision_feature_layer=-1,
        vision_config=VISION | {"model_type": "clip_vision_model", "projection_dim": 16}, image_seq_length=9,
    )  # fmt: skip
    return tf.LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")


def gemma3() -> Any:
    text = DECODER | {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    config = tf.Gemma3Config(
        text_config=text, vision_config=VISION | {"image_size": 40}, mm_tokens_per_image=4, image_token_index=98,
        boi_token_index=97, eoi_token_index=96,
    )  # fmt: skip
    return tf.Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager")


def gemma3_inputs(model: Any) -> dict[str, Any]:
    inputs = tokens(4) | {"pixel_values": pixels(2, 40)}
    return inputs | {"token_type_ids": (inputs["input_ids"] == 98).long()}


def smolvlm() -> Any:
    config = tf.SmolVLMConfig(
        text_config=DECODER | {"model_type": "llama"}, vision_config=VISION | {"image_size": 40}, scale_factor=2,
        image_token_id=98, pad_token_id=0,
    )  # fmt: skip
    return tf.SmolVLMForConditionalGeneration._from_config(config, attn_implementation="eager")


def smolvlm_inputs(model: Any) -> dict[str, Any]:
    mask = torch.ones(2, 1, 40, 40, dtype=torch.bool)
    mask[1, :, 30:] = False  # padded below
    return tokens(4) | {"pixel_values": torch.randn(2, 1, 3, 40, 40), "pixel_attention_mask": mask}


QWEN_TEXT = DECODER | {
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
}
QWEN_IDS = {"image_token_id": 98, "video_token_id": 97, "vision_start_token_id": 96, "vision_end_token_id": 95}


def qwen2_vl() -> Any:
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 1, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    config = tf.Qwen2VLConfig(text_config=QWEN_TEXT, vision_config=vision, **QWEN_IDS)
    return tf.Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="eager")


def qwen2_5_vl() -> Any:
    vision = {
        "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 37, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = tf.Qwen2_5_VLConfig(text_config=QWEN_TEXT, vision_config=vision, **QWEN_IDS)
    return tf.Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager")


def qwen3_vl(config: Any = tf.Qwen3VLConfig, model: Any = tf.Qwen3VLForConditionalGeneration, **text: Any) -> Any:
    vision = {
        "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 37, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }  # fmt: skip
    config = config(text_config=QWEN_TEXT | {"head_dim": 8} | text, vision_config=vision, **QWEN_IDS)
    return model._from_config(config, attn_implementation="eager")


def qwen3_vl_moe() -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
    return qwen3_vl(tf.Qwen3VLMoeConfig, tf.Qwen3VLMoeForConditionalGeneration, **experts)


def glm4v() -> Any:
    vision = {
        "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 37, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "image_size": 24,
    }  # fmt: skip
    ids = {"image_token_id": 98, "video_token_id": 97, "image_start_token_id": 96, "image_end_token_id": 95}
    config = tf.Glm4vConfig(text_config=QWEN_TEXT, vision_config=vision, **ids)
    return tf.Glm4vForConditionalGeneration._from_config(config, attn_implementation="eager")


def qwen_inputs(model: Any) -> dict[str, Any]:
    """Two images of 4 x 6 patches (6 tokens each), of which windows of 4 x 4 pixels make ragged sequences."""
    inputs = tokens(6, left=True)
    grid = torch.tensor([[1, 4, 6], [1, 4, 6]])
    kinds = (inputs["input_ids"] == 98).int()
    return inputs | {"pixel_values": torch.randn(48, 3 * 2 * 4 * 4), "image_grid_thw": grid, "mm_token_type_ids": kinds}


ROWS = [
    Row("Llava", llava, lambda m: tokens(9) | {"pixel_values": pixels()}, logits, 4, patched=False, slow=False),
    Row("Gemma 3", gemma3, gemma3_inputs, logits, 4, patched=False),
    Row("SmolVLM", smolvlm, smolvlm_inputs, logits, 4, patched=False),
    Row("Qwen2-VL", qwen2_vl, qwen_inputs, logits, 4, compiles=False),
    Row("Qwen2.5-VL", qwen2_5_vl, qwen_inputs, logits, 4, compiles=False),
    Row("Qwen3-VL", qwen3_vl, qwen_inputs, logits, 4, compiles=False),
    Row("Qwen3-VL, experts", qwen3_vl_moe, qwen_inputs, logits, 4, compiles=False),
    Row("GLM-4V", glm4v, qwen_inputs, logits, 4, compiles=False),
]  # fmt: skip
