"""BERT's attention with projections `query`, `key` and `value`, in models that compute it themselves.

Where a call asks for the attention weights, the library's own forward runs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmkernels.integrations.stand_ins.common import attend, heads, probability
from mmkernels.nn.common import split_heads


def _project(module: Any, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return heads(module.query(x), module.num_attention_heads), *_keys(module, context)


def _keys(module: Any, context: Tensor) -> tuple[Tensor, Tensor]:
    return heads(module.key(context), module.num_attention_heads), heads(
        module.value(context), module.num_attention_heads
    )


def _cached_keys(module: Any, context: Tensor, cache: Any, crossing: bool) -> tuple[Tensor, Tensor]:
    """Keys and values with those of a transformers cache; the encoder's are made in the first step only."""
    layer, two_sided = module.layer_idx, hasattr(cache, "cross_attention_cache")
    if two_sided and crossing and cache.is_updated.get(layer):
        known = cache.cross_attention_cache.layers[layer]
        return known.keys, known.values
    side = (cache.cross_attention_cache if crossing else cache.self_attention_cache) if two_sided else cache
    keys, values = side.update(*_keys(module, context), layer)
    if two_sided and crossing:
        cache.is_updated[layer] = True
    return keys, values


def _self_attention(cls: Any) -> type:
    class SelfAttention(cls):
        """Single stream: text and regions or patches in one sequence."""

        def forward(self, hidden_states: Tensor, attention_mask: Any = None, output_attentions: bool = False) -> Any:
            if output_attentions:
                return super().forward(hidden_states, attention_mask, output_attentions)
            q, k, v = _project(self, hidden_states, hidden_states)
            return (attend(q, k, v, attention_mask, probability(self.dropout)),)

    return SelfAttention


def _lxmert(cls: Any) -> type:
    class Attention(cls):
        """Of one stream over itself, or over the other (co-attention)."""

        def forward(
            self, hidden_states: Tensor, context: Tensor, attention_mask: Any = None, output_attentions: bool = False
        ) -> Any:
            if output_attentions:
                return super().forward(hidden_states, context, attention_mask, output_attentions)
            q, k, v = _project(self, hidden_states, context)
            return (attend(q, k, v, attention_mask, probability(self.dropout)),)

    return Attention


def _blip_text(cls: Any) -> type:
    class SelfAttention(cls):
        """Causal or not, or over the image."""

        def forward(
            self,
            hidden_states: Tensor,
            attention_mask: Any = None,
            encoder_hidden_states: Tensor | None = None,
            encoder_attention_mask: Any = None,
            past_key_values: Any = None,
            **kwargs: Any,
        ) -> Any:
            if kwargs.get("output_attentions"):
                return super().forward(
                    hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, past_key_values,
                    **kwargs,
                )  # fmt: skip
            crossing = encoder_hidden_states is not None
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            q = heads(self.query(hidden_states), self.num_attention_heads)
            if past_key_values is None:
                k, v = _keys(self, context)
            else:
                k, v = _cached_keys(self, context, past_key_values, crossing)
            mask = encoder_attention_mask if crossing else attention_mask
            return attend(q, k, v, mask, probability(self.dropout)), None

    return SelfAttention


def _blip_vision(cls: Any) -> type:
    class Attention(cls):
        """Over the patches, from one projection."""

        def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
            if kwargs.get("output_attentions"):
                return super().forward(hidden_states, **kwargs)
            q, k, v = split_heads(self.qkv(hidden_states), self.num_heads, 3)
            return self.projection(attend(q, k, v, None, probability(self.dropout), scale=self.scale)), None

    return Attention


def _layoutlmv3(cls: Any) -> type:
    class SelfAttention(cls):
        """With biases of the tokens' positions in the text and on the page, both scaled as the logits are.

        CogView's form of the softmax is the softmax, in another order of operations.
        """

        def forward(
            self, hidden_states: Tensor, attention_mask: Any = None, rel_pos: Any = None, rel_2d_pos: Any = None,
            **kwargs: Any,
        ) -> Any:  # fmt: skip
            if kwargs.get("output_attentions"):
                return super().forward(hidden_states, attention_mask, rel_pos, rel_2d_pos, **kwargs)
            q, k, v = _project(self, hidden_states, hidden_states)
            bias = None
            if self.has_relative_attention_bias:
                bias = rel_pos + rel_2d_pos if self.has_spatial_attention_bias else rel_pos
                bias = bias * self.attention_head_size**-0.5
            return attend(q, k, v, attention_mask, probability(self.dropout), position_bias=bias), None

    return SelfAttention


_MODELS = "transformers.models."

SERVES = {
    _MODELS + "visual_bert.modeling_visual_bert.VisualBertSelfAttention": _self_attention,
    _MODELS + "vilt.modeling_vilt.ViltSelfAttention": _self_attention,
    _MODELS + "flava.modeling_flava.FlavaSelfAttention": _self_attention,
    _MODELS + "lxmert.modeling_lxmert.LxmertAttention": _lxmert,
    _MODELS + "blip.modeling_blip_text.BlipTextSelfAttention": _blip_text,
    _MODELS + "blip.modeling_blip.BlipAttention": _blip_vision,
    _MODELS + "layoutlmv3.modeling_layoutlmv3.LayoutLMv3SelfAttention": _layoutlmv3,
}
