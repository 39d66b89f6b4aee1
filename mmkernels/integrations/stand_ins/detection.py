"""Attention of detection and segmentation models that compute it themselves.

These models ask for attention weights in every call and drop them again, so none are returned, even where a user asks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmkernels.integrations.stand_ins.common import attend, heads, probability
from mmkernels.nn.common import merge_heads
from mmkernels.ops.attention.api import attention


def _mask_transformer(cls: Any) -> type:
    class Attention(cls):
        """Token-first, with positions added to queries and keys but not to values (DETR); masks are (B * H, Lq, Lk)."""

        def forward(
            self,
            hidden_states: Tensor,
            attention_mask: Tensor | None = None,
            position_embeddings: Tensor | None = None,
            key_value_states: Tensor | None = None,
            key_value_position_embeddings: Tensor | None = None,
            output_attentions: bool = False,
        ) -> Any:
            values = hidden_states if key_value_states is None else key_value_states
            queries = self.with_pos_embed(hidden_states, position_embeddings)
            if key_value_states is None:
                keys = queries
            else:
                keys = self.with_pos_embed(key_value_states, key_value_position_embeddings)
            q, k, v = (
                projection(x).unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3)
                for projection, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
            )
            if attention_mask is not None:
                attention_mask = attention_mask.unflatten(0, (-1, self.num_heads))
            out = attend(q, k, v, attention_mask, self.dropout if self.training else 0.0)
            return self.out_proj(out.transpose(0, 1)), None

    return Attention


def _groupvit(cls: Any) -> type:
    class Attention(cls):
        """Over the tokens themselves, or of the group tokens over them."""

        def forward(
            self, hidden_states: Tensor, attention_mask: Any = None, encoder_hidden_states: Any = None, **kwargs: Any
        ) -> Any:
            if kwargs.get("output_attentions"):
                return super().forward(hidden_states, attention_mask, encoder_hidden_states, **kwargs)
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            projected = (self.q_proj(hidden_states), self.k_proj(context), self.v_proj(context))
            q, k, v = (heads(x, self.num_heads) for x in projected)
            out = attend(q, k, v, attention_mask, self.dropout if self.training else 0.0, self.scale)
            return self.out_proj(out), None

    return Attention


def _grounding_dino(cls: Any) -> type:
    class MultiheadAttention(cls):
        """As torch.nn.MultiheadAttention, batch first."""

        def forward(
            self,
            queries: Tensor,
            keys: Tensor,
            values: Tensor,
            attention_mask: Any = None,
            output_attentions: Any = False,
        ) -> Any:
            projected = (self.query(queries), self.key(keys), self.value(values))
            q, k, v = (heads(x, self.num_attention_heads) for x in projected)
            return self.out_proj(attend(q, k, v, attention_mask, probability(self.dropout))), None

    return MultiheadAttention


def _text_and_image(cls: Any) -> type:
    class BiMultiHeadAttention(cls):
        """Image over text and text over image, of one product of projections read both ways; a mask's True hides.

        The library also clamps logits at 50000 below and above the largest, which changes no weight that is not 0.
        """

        def forward(
            self,
            vision_features: Tensor,
            text_features: Tensor,
            vision_attention_mask: Tensor | None = None,
            text_attention_mask: Tensor | None = None,
        ) -> Any:
            image = heads(self.vision_proj(vision_features), self.num_heads)
            text = heads(self.text_proj(text_features), self.num_heads)
            image_values = heads(self.values_vision_proj(vision_features), self.num_heads)
            text_values = heads(self.values_text_proj(text_features), self.num_heads)
            call: dict[str, Any] = {"scale": self.scale, "dropout_p": self.dropout if self.training else 0.0}
            over_text = attention(image, text, text_values, mask=_visible(text_attention_mask), **call)
            over_image = attention(text, image, image_values, mask=_visible(vision_attention_mask), **call)
            found = (self.out_vision_proj(merge_heads(over_text)), self.out_text_proj(merge_heads(over_image)))
            return (found[0], None), (found[1], None)

    return BiMultiHeadAttention


def _visible(hidden: Tensor | None) -> Tensor | None:
    return None if hidden is None else ~hidden[:, None, None, :]


_MODELS = "transformers.models."

SERVES = {
    _MODELS + "mask2former.modeling_mask2former.Mask2FormerAttention": _mask_transformer,
    _MODELS + "oneformer.modeling_oneformer.OneFormerAttention": _mask_transformer,
    _MODELS + "groupvit.modeling_groupvit.GroupViTAttention": _groupvit,
    _MODELS + "grounding_dino.modeling_grounding_dino.GroundingDinoMultiheadAttention": _grounding_dino,
    _MODELS + "grounding_dino.modeling_grounding_dino.GroundingDinoBiMultiHeadAttention": _text_and_image,
    _MODELS + "mm_grounding_dino.modeling_mm_grounding_dino.MMGroundingDinoMultiheadAttention": _grounding_dino,
    _MODELS + "mm_grounding_dino.modeling_mm_grounding_dino.MMGroundingDinoBiMultiHeadAttention": _text_and_image,
}
