"""T5: the relative position bias as a table of distances (`RelativeBias`), with its gradient, never Lq x Lk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkernels.bias import RelativeBias
from mmkernels.integrations.transformers import NO_BIAS


def _attention(cls: Any) -> type:
    class Attention(cls):
        """The library's own forward, which hands the bias on to our attention function and to later layers."""

        def compute_bias(
            self, query_length: int, key_length: int, device: Any = None, past_seen_tokens: Any = 0
        ) -> RelativeBias:
            device = self.relative_attention_bias.weight.device if device is None else device
            distances = torch.arange(query_length + key_length - 1, device=device) - (query_length - 1)
            buckets = self._relative_position_bucket(
                distances - past_seen_tokens,
                bidirectional=not self.is_decoder,
                num_buckets=self.relative_attention_num_buckets,
                max_distance=self.relative_attention_max_distance,
            )
            return RelativeBias(self.relative_attention_bias(buckets).t())

        def forward(
            self, hidden_states: Tensor, mask: Any = None, key_value_states: Any = None, position_bias: Any = None,
            past_key_values: Any = None, **kwargs: Any,
        ) -> Any:  # fmt: skip
            if position_bias is None and not self.has_relative_attention_bias:
                position_bias = NO_BIAS  # the library would make zeros of Lq x Lk
            return super().forward(hidden_states, mask, key_value_states, position_bias, past_key_values, **kwargs)

    return Attention


SERVES = {
    "transformers.models.t5.modeling_t5.T5Attention": _attention,
    "transformers.models.mt5.modeling_mt5.MT5Attention": _attention,
}
