"""Encoder-decoders, and language models that look at images through cross-attention."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

from tests.integrations.named_rows import VISION, pixels
from tests.integrations.rows import Row, ids, padding, real


def decoded(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [real(out.last_hidden_state, inputs["decoder_attention_mask"])]


def flan_t5(config: Any = tf.T5Config, model: Any = tf.T5Model) -> Any:
    config = config(
        vocab_size=99, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_decoder_layers=2, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return model._from_config(config, attn_implementation="eager")


def t5_inputs(model: Any) -> dict[str, Any]:
    return {
        "input_ids": ids((2, 9)), "attention_mask": padding(), "decoder_input_ids": ids((2, 7)),
        "decoder_attention_mask": padding(2, 7, 4),
    }  # fmt: skip


def whisper() -> Any:
    config = tf.WhisperConfig(
        vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=37, decoder_ffn_dim=37, num_mel_bins=16, max_source_positions=20,
        max_target_positions=16, decoder_start_token_id=85, pad_token_id=1, bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    return tf.WhisperModel._from_config(config, attn_implementation="eager")


def whisper_inputs(model: Any) -> dict[str, Any]:
    return {
        "input_features": torch.randn(2, 16, 40), "decoder_input_ids": ids((2, 7)),
        "decoder_attention_mask": padding(2, 7, 4), "use_cache": False,
    }  # fmt: skip


def detr() -> Any:
    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = tf.DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, d_model=32,
        encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=37,
        decoder_ffn_dim=37, num_queries=5,
    )  # fmt: skip
    return tf.DetrModel._from_config(config, attn_implementation="eager")


def detr_inputs(model: Any) -> dict[str, Any]:
    mask = torch.ones(2, 64, 64, dtype=torch.long)
    mask[1, :, 40:] = 0
    return {"pixel_values": pixels(2, 64), "pixel_mask": mask}


def mllama() -> Any:
    text = {
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 37, "cross_attention_layers": [1, 3],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2, "image_size": 20,
        "patch_size": 10, "intermediate_size": 37, "max_num_tiles": 2, "vision_output_dim": 32,
        "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }  # fmt: skip
    config = tf.MllamaConfig(text_config=text, vision_config=vision)
    return tf.MllamaForConditionalGeneration._from_config(config, attn_implementation="eager")


def mllama_inputs(model: Any) -> dict[str, Any]:
    seen = torch.zeros(2, 9, 1, 2, dtype=torch.long)  # (batch, token, image, tile)
    seen[0, 2:, 0, :] = 1
    seen[1, 4:, 0, 0] = 1  # the second image has one tile; the first tokens see none, and so attend to all
    return {
        "input_ids": ids((2, 9)), "attention_mask": padding(), "pixel_values": torch.randn(2, 1, 2, 3, 20, 20),
        "aspect_ratio_ids": torch.tensor([[2], [1]]), "aspect_ratio_mask": torch.tensor([[[1, 1]], [[1, 0]]]),
        "cross_attention_mask": seen, "use_cache": False,
    }  # fmt: skip


def logits(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [real(out.logits, inputs["attention_mask"])]


def idefics() -> Any:
    config = tf.IdeficsConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
        additional_vocab_size=0, cross_layer_interval=1, qk_layer_norms=True, use_resampler=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, alpha_initializer="zeros", alpha_type="vector",
        vision_config={"embed_dim": 32, "image_size": 30, "patch_size": 10, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "intermediate_size": 37},
        perceiver_config={"resampler_n_latents": 3, "resampler_depth": 1, "resampler_n_heads": 2,
                          "resampler_head_dim": 8},
    )  # fmt: skip
    return tf.IdeficsForVisionText2Text._from_config(config, attn_implementation="eager")


def idefics_inputs(model: Any) -> dict[str, Any]:
    seen = torch.zeros(2, 9, 2, dtype=torch.long)  # (batch, token, image)
    seen[:, 2:5, 0] = 1
    seen[:, 5:, 1] = 1  # the first tokens see no image
    return {
        "input_ids": ids((2, 9)), "attention_mask": padding(), "pixel_values": torch.randn(2, 2, 3, 30, 30),
        "image_attention_mask": seen, "use_cache": False,
    }  # fmt: skip


def qformer_config(cls: Any) -> Any:
    text = {
        "model_type": "opt", "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "ffn_dim": 37, "word_embed_proj_dim": 32, "max_position_embeddings": 64,
    }  # fmt: skip
    qformer = {
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
        "encoder_hidden_size": 32, "cross_attention_frequency": 1,
    }  # fmt: skip
    return cls(vision_config=VISION, qformer_config=qformer, text_config=text, num_query_tokens=4, image_token_index=98)


def image_tokens(count: int) -> torch.Tensor:
    """Ids that begin with the places of `count` image tokens."""
    tokens = ids((2, 9 + count))
    tokens[:, :count] = 98
    return tokens


def blip2() -> Any:
    config = qformer_config(tf.Blip2Config)
    return tf.Blip2ForConditionalGeneration._from_config(config, attn_implementation="eager")


def blip2_inputs(model: Any) -> dict[str, Any]:
    return {"input_ids": image_tokens(4), "attention_mask": padding(2, 13, 9), "pixel_values": pixels()}


def instructblip() -> Any:
    config = qformer_config(tf.InstructBlipConfig)
    return tf.InstructBlipForConditionalGeneration._from_config(config, attn_implementation="eager")


def instructblip_inputs(model: Any) -> dict[str, Any]:
    return blip2_inputs(model) | {"qformer_input_ids": ids((2, 6)), "qformer_attention_mask": padding(2, 6, 4)}


ROWS = [
    Row("FLAN-T5", flan_t5, t5_inputs, decoded, 6, slow=False),
    Row("MT5", lambda: flan_t5(tf.MT5Config, tf.MT5Model), t5_inputs, decoded, 6),
    Row("T5, registered", flan_t5, t5_inputs, decoded, 6, patched=False),
    Row("Whisper", whisper, whisper_inputs, decoded, 6, patched=False),
    Row("DETR", detr, detr_inputs, lambda o, i: [o.last_hidden_state], 5),
    Row("mllama", mllama, mllama_inputs, logits, 7, patched=False, slow=False),
    Row("mllama, no mask of its tiles", mllama, lambda m: mllama_inputs(m) | {"cross_attention_mask": None}, logits, 7,
        patched=False),
    Row("Idefics", idefics, idefics_inputs, logits, 7),
    Row("BLIP-2", blip2, blip2_inputs, logits, 7),
    Row("InstructBLIP", instructblip, instructblip_inputs, logits, 7),
]  # fmt: skip
