"""Resamplers: latents over inputs of another width and length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkernels.integrations.stand_ins.common import attend, heads, probability
from mmkernels.nn.common import merge_heads
from mmkernels.ops.attention.api import attention

_PERCEIVER_SLOWER_IN = {
    torch.float32: "one head of 261 runs at 0.84 to 0.87 x eager attention in fp32",
    torch.bfloat16: "one head of 261 runs at 0.81 to 1.01 x eager attention in bf16",
}


def _perceiver(cls: Any) -> type:
    class SelfAttention(cls):
        """Of latents over inputs, or over themselves; keys and values of different widths."""

        slower_in = _PERCEIVER_SLOWER_IN

        def forward(
            self,
            hidden_states: Tensor,
            attention_mask: Any = None,
            inputs: Any = None,
            inputs_mask: Any = None,
            output_attentions: Any = False,
        ) -> Any:
            if output_attentions:
                return super().forward(hidden_states, attention_mask, inputs, inputs_mask, output_attentions)
            latents = self.layernorm1(hidden_states)
            context, mask = (latents, attention_mask) if inputs is None else (self.layernorm2(inputs), inputs_mask)
            projected = (self.query(latents), self.key(context), self.value(context))
            q, k, v = (heads(x, self.num_heads) for x in projected)
            return (attend(q, k, v, mask, probability(self.dropout)),)

    return SelfAttention


def _idefics(cls: Any) -> type:
    class ResamplerAttention(cls):
        """Of latents over the image's tokens and themselves: two segments, not concatenated (Flamingo)."""

        def forward(self, context: Tensor, latents: Tensor) -> Tensor:
            latents = self.latents_layer_norm(latents)
            segments = (self.context_layer_norm(context), latents)
            query = heads(self.q_proj(latents), self.n_heads)
            keys = [heads(self.k_proj(x), self.n_heads) for x in segments]
            values = [heads(self.v_proj(x), self.n_heads) for x in segments]
            if self.qk_layer_norms:
                query, keys = self.q_layer_norm(query), [self.k_layer_norm(key) for key in keys]
            return self.output_proj(merge_heads(attention(query, keys, values, scale=self.qk_scale)))

    return ResamplerAttention


SERVES = {
    "transformers.models.perceiver.modeling_perceiver.PerceiverSelfAttention": _perceiver,
    "transformers.models.idefics.perceiver.IdeficsPerceiverAttention": _idefics,
}
