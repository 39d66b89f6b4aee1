"""Vision towers of the Qwen-VL family: all images, or windows of them, in one packed call instead of one call each."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

from mmkernels.ops.attention.api import attention_varlen


def _vision(cls: Any) -> type:
    rotate = sys.modules[cls.__module__].apply_rotary_pos_emb_vision

    class VisionAttention(cls):
        """Over packed patches (T, width), sequence by sequence of `cu_seqlens`."""

        def forward(
            self, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: Any = None, **kwargs: Any
        ) -> Tensor:
            q, k, v = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
            q, k = rotate(q, k, *position_embeddings)
            dropout_p = self.attention_dropout if self.training else 0.0
            out = attention_varlen(q, k, v, cu_seqlens, cu_seqlens, scale=self.scaling, dropout_p=dropout_p)
            return self.proj(out.flatten(1))

    return VisionAttention


_MODELS = "transformers.models."

SERVES = {
    _MODELS + "qwen2_vl.modeling_qwen2_vl.VisionAttention": _vision,
    _MODELS + "qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLVisionAttention": _vision,
    _MODELS + "qwen3_vl.modeling_qwen3_vl.Qwen3VLVisionAttention": _vision,
    _MODELS + "qwen3_vl_moe.modeling_qwen3_vl_moe.Qwen3VLMoeVisionAttention": _vision,
    _MODELS + "glm4v.modeling_glm4v.Glm4vVisionAttention": _vision,
}
