"""What is measured: ten models at published widths, heads and lengths, with fewer layers and smaller vocabularies.

Weights are random, inputs noise and random words; texts are padded as batches are, the last half as long as the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WORDS = 8192
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
        build: on the library's "eager" or "sdpa" attention, or on what it has; without dropout.
        inputs: keyword arguments of its forward.
        counted: what the throughput counts, and how many of them a call takes.
        shape: the heads and lengths in a few words.
    """

    name: str
    build: Callable[[str], Any]
    inputs: Callable[[], dict[str, Any]]
    counted: tuple[str, int]
    shape: str


def floats(out: Any) -> Iterator[Tensor]:
    """The floating tensors of a model's output, in its order."""
    if isinstance(out, Tensor):
        if out.is_floating_point():
            yield out
    elif isinstance(out, (tuple, list)):
        for each in out:
            yield from floats(each)
    elif hasattr(out, "to_tuple"):
        yield from floats(out.to_tuple())


def words(batch: int, length: int, low: int = 100) -> dict[str, Tensor]:
    """Token ids, and an attention mask of from all tokens down to half of them."""
    lengths = torch.linspace(length, length // min(batch, 2), batch).round().long()
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": torch.randint(low, WORDS - 100, (batch, length)), "attention_mask": mask}


def pixels(batch: int, height: int, width: int | None = None) -> Tensor:
    """Noise (B, 3, height, width)."""
    return torch.randn(batch, 3, height, width or height)


def clip(attention: str) -> Any:
    """CLIP ViT-B/16."""
    import transformers as tf

    text = {"num_hidden_layers": 2, "vocab_size": WORDS, "eos_token_id": WORDS - 1}
    config = tf.CLIPConfig(text_config=text, vision_config={"num_hidden_layers": 2, "patch_size": 16})
    return tf.CLIPModel._from_config(config, attn_implementation=attention)


def flan_t5(attention: str) -> Any:
    """FLAN-T5 base."""
    import transformers as tf

    config = tf.T5Config(
        vocab_size=WORDS, d_model=768, d_kv=64, d_ff=2048, num_heads=12, num_layers=2, num_decoder_layers=2,
        dropout_rate=0.0, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return tf.T5Model._from_config(config, attn_implementation=attention)


def flan_t5_inputs() -> dict[str, Any]:
    """A text of 512 tokens and 128 of its answer."""
    return words(2, 512) | {"decoder_input_ids": torch.randint(100, 8000, (2, 128)), "use_cache": False}


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def lxmert(attention: str) -> Any:
    """LXMERT: texts, regions, and both over each other."""
    import transformers as tf

    config = tf.LxmertConfig(vocab_size=WORDS, l_layers=2, x_layers=2, r_layers=2, **NO_DROPOUT)
    return tf.LxmertModel(config)


def lxmert_inputs() -> dict[str, Any]:
    """36 regions."""
    return words(8, 20) | {"visual_feats": torch.randn(8, 36, 2048), "visual_pos": torch.rand(8, 36, 4)}


def vilt(attention: str) -> Any:
    """ViLT-B/32: words and patches in one stream."""
    import transformers as tf

    return tf.ViltModel(tf.ViltConfig(**BASE, vocab_size=WORDS, **NO_DROPOUT))


def vilt_inputs() -> dict[str, Any]:
    """40 words, 12 x 20 patches, of the last picture half."""
    mask = torch.ones(2, 384, 640, dtype=torch.long)
    mask[-1, :, 320:] = 0
    return words(2, 40) | {"pixel_values": pixels(2, 384, 640), "pixel_mask": mask}


def layoutlmv3(attention: str) -> Any:
    """LayoutLMv3 base: text and page, biases of both positions."""
    import transformers as tf

    config = tf.LayoutLMv3Config(**BASE, vocab_size=WORDS, max_position_embeddings=514, **NO_DROPOUT)
    return tf.LayoutLMv3Model(config)


def layoutlmv3_inputs() -> dict[str, Any]:
    """512 tokens and 197 patches."""
    corners = torch.randint(0, 500, (2, 512, 2))
    boxes = torch.cat([corners, corners + torch.randint(1, 400, (2, 512, 2))], -1)
    return words(2, 512) | {"bbox": boxes, "pixel_values": pixels(2, 224)}


def mllama(attention: str) -> Any:
    """Llama 3.2 11B Vision's heads: a layer of text and one over the tiles; MLPs narrower, pictures of 168 pixels."""
    import transformers as tf

    text = {
        "vocab_size": WORDS, "hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 2048, "cross_attention_layers": [1], "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    }  # fmt: skip
    vision = {
        "hidden_size": 1280, "attention_heads": 16, "num_hidden_layers": 1, "num_global_layers": 1, "image_size": 168,
        "patch_size": 14, "max_num_tiles": 4, "vision_output_dim": 2560, "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 2]],
    }  # fmt: skip
    return tf.MllamaForConditionalGeneration._from_config(
        tf.MllamaConfig(text_config=text, vision_config=vision), attn_implementation=attention
    )


def mllama_inputs() -> dict[str, Any]:
    """64 tokens and a picture of one tile, where there is place for four."""
    seen = torch.zeros(1, 64, 1, 4, dtype=torch.long)
    seen[:, 4:, 0, 0] = 1
    return words(1, 64) | {
        "pixel_values": torch.randn(1, 1, 4, 3, 168, 168), "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.tensor([[[1, 0, 0, 0]]]), "cross_attention_mask": seen, "use_cache": False,
    }  # fmt: skip


IMAGE = WORDS - 1


def qwen2_5_vl(attention: str) -> Any:
    """Qwen2.5-VL 3B: a layer of windows and one of whole images, two of text."""
    import transformers as tf

    text = {
        "vocab_size": WORDS, "hidden_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 16,
        "num_key_value_heads": 2, "intermediate_size": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 1280, "out_hidden_size": 2048, "num_heads": 16, "intermediate_size": 3420,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1],
    }  # fmt: skip
    ids = {"image_token_id": IMAGE, "video_token_id": IMAGE - 1, "vision_start_token_id": IMAGE - 2}
    config = tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, vision_end_token_id=IMAGE - 3, **ids)
    return tf.Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention)


def qwen2_5_vl_inputs() -> dict[str, Any]:
    """A picture of 280 x 280 pixels, 20 x 20 patches and so 100 tokens, and 64 words."""
    tokens = torch.randint(100, WORDS - 100, (1, 100 + 64))
    tokens[:, 8 : 8 + 100] = IMAGE
    return {
        "input_ids": tokens, "attention_mask": torch.ones_like(tokens), "mm_token_type_ids": (tokens == IMAGE).int(),
        "pixel_values": torch.randn(400, 3 * 2 * 14 * 14), "image_grid_thw": torch.tensor([[1, 20, 20]]),
        "use_cache": False,
    }  # fmt: skip


def sam(attention: str) -> Any:
    """SAM ViT-B's image tower on 704 pixels: a layer of windows of 14 x 14 and one of the whole image."""
    import transformers as tf

    vision = {"num_hidden_layers": 2, "global_attn_indexes": [1], "image_size": 704, "initializer_range": 0.02}
    return tf.SamVisionModel._from_config(tf.SamVisionConfig(**vision), attn_implementation=attention)


def perceiver(attention: str) -> Any:
    """Perceiver IO of language: 256 latents over 2048 bytes."""
    import transformers as tf

    config = tf.PerceiverConfig(num_self_attends_per_block=2, attention_probs_dropout_prob=0.0)
    return tf.PerceiverModel(config)


def bytes_of_a_text() -> dict[str, Any]:
    """Embedded bytes, all of them real."""
    return {"inputs": torch.randn(1, 2048, 768), "attention_mask": torch.ones(1, 2048, dtype=torch.long)}


def flux(attention: str) -> Any:
    """FLUX: one single block between its first and last layers."""
    import diffusers

    return diffusers.FluxTransformer2DModel(
        num_layers=0,
        num_single_layers=1,
        in_channels=64,
        joint_attention_dim=512,
        pooled_projection_dim=64,
        guidance_embeds=True,
    )


def flux_inputs() -> dict[str, Any]:
    """A grid of 16 x 16 latents and 64 tokens of text."""
    places = torch.zeros(256, 3)
    places[:, 1], places[:, 2] = torch.arange(256) // 16, torch.arange(256) % 16
    return {
        "hidden_states": torch.randn(1, 256, 64), "encoder_hidden_states": torch.randn(1, 64, 512),
        "pooled_projections": torch.randn(1, 64), "timestep": torch.tensor([0.5]), "guidance": torch.tensor([3.5]),
        "img_ids": places, "txt_ids": torch.zeros(64, 3),
    }  # fmt: skip


MODELS = {
    model.name: model
    for model in (
        Model("CLIP ViT-B/16", clip, lambda: words(8, 77) | {"pixel_values": pixels(8, 224)}, ("images", 8),
              "12 and 8 heads of 64; 197 patches, 77 tokens"),
        Model("FLAN-T5 base", flan_t5, flan_t5_inputs, ("tokens", 2 * 640), "12 heads of 64; 512 and 128 tokens"),
        Model("LXMERT", lxmert, lxmert_inputs, ("images", 8), "12 heads of 64; 20 tokens, 36 regions"),
        Model("ViLT-B/32", vilt, vilt_inputs, ("images", 2), "12 heads of 64; 40 tokens, 241 patches"),
        Model("LayoutLMv3 base", layoutlmv3, layoutlmv3_inputs, ("tokens", 2 * 512),
              "12 heads of 64; 512 tokens, 197 patches"),
        Model("Llama 3.2 Vision", mllama, mllama_inputs, ("images", 1),
              "32 heads of 128 over 8; 64 tokens, 4 x 145 patches, of which one tile is real"),
        Model("Qwen2.5-VL 3B", qwen2_5_vl, qwen2_5_vl_inputs, ("images", 1),
              "16 heads of 80, windows of 64; 16 of 128 over 2; 400 patches, 164 tokens"),
        Model("SAM ViT-B", sam, lambda: {"pixel_values": pixels(1, 704)}, ("images", 1),
              "12 heads of 64; 44 x 44 patches, windows of 14 x 14"),
        Model("Perceiver IO, language", perceiver, bytes_of_a_text, ("tokens", 2048),
              "8 heads of 32 and 160; 256 latents over 2048 bytes"),
        Model("FLUX, single block", flux, flux_inputs, ("latents", 256), "24 heads of 128; 64 tokens, 256 latents"),
    )
}  # fmt: skip
