"""Models of one text-and-image stream, or of two that look at each other."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from transformers.models.blip.modeling_blip_text import BlipTextModel

from tests.integrations.named_rows import TEXT, VISION, last_hidden, text_and_pixels, text_inputs
from tests.integrations.rows import Row, padding, real


def visual_bert() -> Any:
    return tf.VisualBertModel(tf.VisualBertConfig(**TEXT, visual_embedding_dim=20))


def visual_bert_inputs(model: Any) -> dict[str, Any]:
    return text_inputs(model) | {
        "visual_embeds": torch.randn(2, 4, 20), "visual_attention_mask": padding(2, 4, 3),
        "token_type_ids": torch.zeros(2, 9, dtype=torch.long),
        "visual_token_type_ids": torch.ones(2, 4, dtype=torch.long),
    }  # fmt: skip


def visual_bert_outputs(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    mask = torch.cat([inputs["attention_mask"], inputs["visual_attention_mask"]], 1)
    return [real(out.last_hidden_state, mask)]


def vilt() -> Any:
    return tf.ViltModel(tf.ViltConfig(**TEXT | VISION))


def vilt_inputs(model: Any) -> dict[str, Any]:
    mask = torch.ones(2, 30, 30, dtype=torch.long)
    mask[1, 20:] = 0  # the second image is less high
    return text_and_pixels(model) | {"pixel_mask": mask}


def lxmert() -> Any:
    config = tf.LxmertConfig(
        vocab_size=99, hidden_size=32, num_attention_heads=4, intermediate_size=37, l_layers=1, x_layers=2, r_layers=1,
        visual_feat_dim=20, max_position_embeddings=64,
    )  # fmt: skip
    return tf.LxmertModel(config)


def lxmert_inputs(model: Any) -> dict[str, Any]:
    return text_inputs(model) | {
        "visual_feats": torch.randn(2, 6, 20), "visual_pos": torch.rand(2, 6, 4),
        "visual_attention_mask": padding(2, 6, 4),
    }  # fmt: skip


def lxmert_outputs(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [
        real(out.language_output, inputs["attention_mask"]), real(out.vision_output, inputs["visual_attention_mask"]),
        out.pooled_output,
    ]  # fmt: skip


def blip() -> Any:
    config = tf.BlipConfig(
        text_config=TEXT | {"encoder_hidden_size": 32, "bos_token_id": 0, "sep_token_id": 98, "pad_token_id": 1},
        vision_config=VISION, projection_dim=16, image_text_hidden_size=16,
    )  # fmt: skip
    return tf.BlipForImageTextRetrieval(config)


def blip_outputs(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [out.itm_score, out.last_hidden_state]


def blip_captioning() -> Any:
    config = tf.BlipConfig(
        text_config=TEXT | {"encoder_hidden_size": 32, "is_decoder": True, "bos_token_id": 0, "sep_token_id": 98},
        vision_config=VISION, projection_dim=16, image_text_hidden_size=16,
    )  # fmt: skip
    return tf.BlipForConditionalGeneration(config)


def blip_text() -> Any:
    config = tf.BlipTextConfig(**TEXT, encoder_hidden_size=20)
    return BlipTextModel(config)


def blip_text_inputs(model: Any) -> dict[str, Any]:
    return text_inputs(model) | {
        "encoder_hidden_states": torch.randn(2, 6, 20), "encoder_attention_mask": padding(2, 6, 3), "is_decoder": True,
        "use_cache": False,
    }  # fmt: skip


def flava() -> Any:
    config = tf.FlavaConfig(
        text_config=TEXT, image_config=VISION, projection_dim=16,
        multimodal_config={k: VISION[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    )  # fmt: skip
    return tf.FlavaModel(config)


def flava_outputs(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [
        real(out.text_output.last_hidden_state, inputs["attention_mask"]), out.image_output.last_hidden_state,
        out.multimodal_output.last_hidden_state,
    ]  # fmt: skip


def layoutlmv3() -> Any:
    config = tf.LayoutLMv3Config(
        **TEXT, input_size=30, patch_size=10, coordinate_size=6, shape_size=4, max_2d_position_embeddings=1024,
        rel_pos_bins=8, max_rel_pos=16, rel_2d_pos_bins=8, max_rel_2d_pos=32,
    )  # fmt: skip
    return tf.LayoutLMv3Model(config)


def layoutlmv3_inputs(model: Any) -> dict[str, Any]:
    corners = torch.randint(0, 500, (2, 9, 2))
    boxes = torch.cat([corners, corners + torch.randint(1, 400, (2, 9, 2))], -1)
    return text_and_pixels(model) | {"bbox": boxes}


def layoutlmv3_outputs(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    patches = out.last_hidden_state.shape[1] - 9
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, patches, dtype=torch.long)], 1)
    return [real(out.last_hidden_state, mask)]


def bridgetower() -> Any:
    config = tf.BridgeTowerConfig(
        hidden_size=64, num_attention_heads=4, num_hidden_layers=2,
        text_config=TEXT | {"hidden_size": 64, "pad_token_id": 1},
        vision_config={"hidden_size": 64, "num_hidden_layers": 2, "patch_size": 10, "image_size": 30},
    )  # fmt: skip
    return tf.BridgeTowerModel._from_config(config, attn_implementation="eager")


def bridgetower_inputs(model: Any) -> dict[str, Any]:
    return text_and_pixels(model) | {"pixel_mask": torch.ones(2, 30, 30, dtype=torch.long)}


def bridgetower_outputs(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [real(out.text_features, inputs["attention_mask"]), out.image_features]


ROWS = [
    Row("VisualBERT", visual_bert, visual_bert_inputs, visual_bert_outputs, 2, slow=False),
    Row("ViLT", vilt, vilt_inputs, lambda o, i: [o.pooler_output], 2, compiles=False),
    Row("LXMERT", lxmert, lxmert_inputs, lxmert_outputs, 10, slow=False),
    Row("BLIP", blip, text_and_pixels, blip_outputs, 6),
    Row("BLIP captioning", blip_captioning, text_and_pixels,
        lambda o, i: [real(o.logits, i["attention_mask"])], 6),
    Row("BLIP's text model", blip_text, blip_text_inputs, last_hidden, 4),
    Row("FLAVA", flava, text_and_pixels, flava_outputs, 6),
    Row("LayoutLMv3", layoutlmv3, layoutlmv3_inputs, layoutlmv3_outputs, 2),
    Row("BridgeTower", bridgetower, bridgetower_inputs, bridgetower_outputs, 12),
]  # fmt: skip
