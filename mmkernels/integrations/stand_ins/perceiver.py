"""Resamplers: latents over inputs of another width and length."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmkernels.integrations.stand_ins.common import attend, heads, probability


def _perceiver(cls: Any) -> type:
    class SelfAttention(cls):
        """Of latents over inputs, or over themselves; keys and values of different widths."""

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


SERVES = {"transformers.models.perceiver.modeling_perceiver.PerceiverSelfAttention": _perceiver}
