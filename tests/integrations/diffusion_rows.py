"""Diffusion models of diffusers: text and image jointly (SD3, FLUX, Qwen-Image), or one over the other (SDXL, Wan)."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.integrations.rows import Row, padding

TOKENS, GRID = 7, (4, 6)
PATCHES = GRID[0] * GRID[1]


def sample(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [out.sample]


def sd3(**options: Any) -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=20, caption_projection_dim=32, pooled_projection_dim=12,
        pos_embed_max_size=8, **options,
    )  # fmt: skip


def sd3_inputs(model: Any) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 4, 8, 12), "encoder_hidden_states": torch.randn(2, TOKENS, 20),
        "pooled_projections": torch.randn(2, 12), "timestep": torch.tensor([100.0, 700.0]),
    }  # fmt: skip


def flux() -> Any:
    return diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=20, pooled_projection_dim=12, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip


def flux_inputs(model: Any) -> dict[str, Any]:
    places = torch.cartesian_prod(torch.zeros(1), *(torch.arange(float(n)) for n in GRID))
    return {
        "hidden_states": torch.randn(2, PATCHES, 4), "encoder_hidden_states": torch.randn(2, TOKENS, 20),
        "pooled_projections": torch.randn(2, 12), "timestep": torch.tensor([0.1, 0.7]),
        "guidance": torch.tensor([3.0, 5.0]), "img_ids": places, "txt_ids": torch.arange(3.0 * TOKENS).view(TOKENS, 3),
    }  # fmt: skip


def qwen_image() -> Any:
    return diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=20, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


def qwen_image_inputs(model: Any) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, PATCHES, 16), "encoder_hidden_states": torch.randn(2, TOKENS, 20),
        "timestep": torch.tensor([0.1, 0.7]), "img_shapes": [[(1, *GRID)]] * 2,
    }  # fmt: skip


def padded_qwen_image_inputs(model: Any) -> dict[str, Any]:
    return qwen_image_inputs(model) | {"encoder_hidden_states_mask": padding(2, TOKENS, 3)}


def sdxl() -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 1), cross_attention_dim=20,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=30, norm_num_groups=8,
    )  # fmt: skip


def sdxl_inputs(model: Any) -> dict[str, Any]:
    return {
        "sample": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([100, 700]),
        "encoder_hidden_states": torch.randn(2, TOKENS, 20), "encoder_attention_mask": padding(2, TOKENS, 3).bool(),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, 6), "time_ids": torch.randint(0, 99, (2, 6))},
    }  # fmt: skip


def wan() -> Any:
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=20,
        freq_dim=8, ffn_dim=37, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
    )  # fmt: skip


def wan_inputs(model: Any) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 4, 2, 4, 6), "encoder_hidden_states": torch.randn(2, TOKENS, 20),
        "timestep": torch.tensor([100, 700]),
    }  # fmt: skip


# When compiled, the text's attention of SD3's and Qwen-Image's last block is not computed: nobody reads it.
ROWS = [
    Row("SD3", sd3, sd3_inputs, sample, 4, drops=False, slow=False, compiled_calls=3),
    Row("SD3.5", lambda: sd3(dual_attention_layers=(0,), qk_norm="rms_norm"), sd3_inputs, sample, 5, drops=False,
        compiled_calls=4),
    Row("FLUX", flux, flux_inputs, sample, 6, drops=False, slow=False),
    Row("Qwen-Image", qwen_image, padded_qwen_image_inputs, sample, 4, drops=False, slow=False, compiled_calls=3),
    Row("Qwen-Image, unpadded", qwen_image, qwen_image_inputs, sample, 4, drops=False, compiled_calls=3),
    Row("SDXL's UNet", sdxl, sdxl_inputs, sample, 8, drops=False, slow=False),
    Row("Wan", wan, wan_inputs, sample, 4, drops=False),
]  # fmt: skip
