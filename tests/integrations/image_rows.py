"""Detection, segmentation and image models."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

from tests.integrations.named_rows import TEXT, VISION, pixels, text_and_pixels
from tests.integrations.rows import Row, ids, padding, real


def sam(config: Any = tf.SamConfig, model: Any = tf.SamModel, **decoder: Any) -> Any:
    config = config(
        vision_config={
            "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 48, "patch_size": 8, "mlp_dim": 37, "num_pos_feats": 8, "window_size": 4,
            "global_attn_indexes": [1],
        },
        prompt_encoder_config={"hidden_size": 16, "input_image_size": 48, "patch_size": 8, "image_size": 48},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 37, "num_hidden_layers": 2, "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
        } | decoder,
    )  # fmt: skip
    return model._from_config(config, attn_implementation="eager")


def sam_inputs(model: Any) -> dict[str, Any]:
    return {"pixel_values": pixels(2, 48), "input_points": torch.rand(2, 1, 3, 2) * 48}


def sam2() -> Any:
    backbone = {
        "hidden_size": 16, "num_attention_heads": 1, "image_size": [64, 64], "blocks_per_stage": [1, 1, 1, 1],
        "embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 2, 4, 4], "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [], "query_stride": [2, 2], "model_type": "sam2_hiera_det_model",
    }  # fmt: skip
    config = tf.Sam2Config(
        vision_config={
            "backbone_config": backbone, "backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 37, "num_hidden_layers": 2, "num_attention_heads": 2,
            "iou_head_hidden_dim": 8, "iou_head_depth": 2,
        },
    )  # fmt: skip
    return tf.Sam2Model._from_config(config, attn_implementation="eager")


def sam2_inputs(model: Any) -> dict[str, Any]:
    points = {"input_points": torch.rand(2, 1, 3, 2) * 64, "input_labels": torch.ones(2, 1, 3, dtype=torch.int32)}
    return {"pixel_values": pixels(2, 64)} | points


def owlvit() -> Any:
    config = tf.OwlViTConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    return tf.OwlViTModel._from_config(config, attn_implementation="eager")


def owlvit_outputs(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    text = real(out.text_model_output.last_hidden_state, inputs["attention_mask"])
    return [text, out.vision_model_output.last_hidden_state]


def dinov3() -> Any:
    config = tf.DINOv3ViTConfig(**VISION, num_register_tokens=2)
    return tf.DINOv3ViTModel._from_config(config, attn_implementation="eager")


def groupvit() -> Any:
    vision = {
        "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37, "image_size": 30, "patch_size": 5,
        "depths": [1, 1, 1], "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 8],
        "assign_mlp_ratio": [0.5, 4],
    }  # fmt: skip
    config = tf.GroupViTConfig(
        text_config=TEXT | {"eos_token_id": 98}, vision_config=vision, projection_dim=16, projection_intermediate_dim=32
    )
    return tf.GroupViTModel(config)


def perceiver() -> Any:
    config = tf.PerceiverConfig(
        num_latents=7, d_latents=20, d_model=26, num_blocks=1, num_self_attends_per_block=2,
        num_self_attention_heads=2, num_cross_attention_heads=1, qk_channels=18, v_channels=20,
    )  # fmt: skip
    return tf.PerceiverModel(config)


def resnet() -> Any:
    return tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def mask2former() -> Any:
    config = tf.Mask2FormerConfig(
        backbone_config=resnet(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=37,
        encoder_layers=1, decoder_layers=3, num_attention_heads=4, dim_feedforward=37, num_queries=5,
    )  # fmt: skip
    return tf.Mask2FormerModel(config)


def oneformer() -> Any:
    config = tf.OneFormerConfig(
        backbone_config=resnet(), conv_dim=32, mask_dim=32, hidden_dim=32, encoder_feedforward_dim=37,
        encoder_layers=1, decoder_layers=3, num_attention_heads=4, dim_feedforward=37, num_queries=5, is_training=False,
        text_encoder_width=32, text_encoder_num_layers=1, text_encoder_vocab_size=99, task_seq_len=8,
        query_dec_layers=1,
    )  # fmt: skip
    return tf.OneFormerModel(config)


def grounding_dino(config: Any = tf.GroundingDinoConfig, model: Any = tf.GroundingDinoModel) -> Any:
    config = config(
        backbone_config=tf.SwinConfig(
            embed_dim=12, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], window_size=4, image_size=64,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config={"model_type": "bert"} | TEXT, d_model=32, encoder_layers=1, encoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_layers=2, decoder_ffn_dim=37, decoder_attention_heads=4, num_queries=5,
        num_feature_levels=3, max_text_len=16,
    )  # fmt: skip
    return model(config)


def grounding_dino_inputs(model: Any) -> dict[str, Any]:
    tokens = ids((2, 9))
    tokens[:, 0] = 101 % 99
    mask = torch.ones(2, 64, 64, dtype=torch.long)
    mask[1, :, 40:] = 0
    return {"pixel_values": pixels(2, 64), "pixel_mask": mask, "input_ids": tokens, "attention_mask": padding()}


ROWS = [
    Row("SAM", sam, sam_inputs, lambda o, i: [o.iou_scores, o.pred_masks], 9, slow=False),
    Row("SAM-HQ", lambda: sam(tf.SamHQConfig, tf.SamHQModel, vit_dim=32), sam_inputs,
        lambda o, i: [o.iou_scores, o.pred_masks], 9),
    Row("SAM 2", sam2, sam2_inputs, lambda o, i: [o.iou_scores, o.pred_masks], 11, drops=False),
    Row("OWL-ViT", owlvit, text_and_pixels, owlvit_outputs, 4, patched=False),
    Row("DINOv3", dinov3, lambda m: {"pixel_values": pixels()}, lambda o, i: [o.last_hidden_state], 2, patched=False),
    Row("GroupViT", groupvit, text_and_pixels, lambda o, i: [o.text_embeds, o.image_embeds], 7, drops=False),
    Row("Perceiver", perceiver, lambda m: {"inputs": torch.randn(2, 11, 26), "attention_mask": padding(2, 11, 6)},
        lambda o, i: [o.last_hidden_state], 3),
    Row("Mask2Former", mask2former, lambda m: {"pixel_values": pixels(2, 64)},
        lambda o, i: [o.transformer_decoder_last_hidden_state], 4),
    Row("OneFormer", oneformer, lambda m: {"pixel_values": pixels(2, 64), "task_inputs": ids((2, 8))},
        lambda o, i: [o.transformer_decoder_object_queries], 6),
    Row("Grounding DINO", grounding_dino, grounding_dino_inputs, lambda o, i: [o.last_hidden_state], 13),
    Row("MM-Grounding-DINO", lambda: grounding_dino(tf.MMGroundingDinoConfig, tf.MMGroundingDinoModel),
        grounding_dino_inputs, lambda o, i: [o.last_hidden_state], 13),
]  # fmt: skip
