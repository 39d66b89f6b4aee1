"""torch.nn: MultiheadAttention, and the encoder layer whose fused kernel would bypass it without gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmkernels.integrations.given_masks import hidden
from mmkernels.nn.multihead import MultiheadAttention


def _multihead(cls: Any) -> type:
    class ServedAttention(MultiheadAttention):
        """mmkernels' module over the parameters of torch's."""

        backend = None

    return ServedAttention


def _encoder_layer(cls: Any) -> type:
    class EncoderLayer(cls):
        """Without torch's fused kernel: every call reaches `self_attn`."""

        def forward(
            self, src: Tensor, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
        ) -> Tensor:
            # Masks that hide stay bool; torch would add them as numbers.
            mask, padding = hidden(src_mask), hidden(src_key_padding_mask)
            if self.norm_first:
                x = src + self._sa_block(self.norm1(src), mask, padding, is_causal=is_causal)
                return x + self._ff_block(self.norm2(x))
            x = self.norm1(src + self._sa_block(src, mask, padding, is_causal=is_causal))
            return self.norm2(x + self._ff_block(x))

    return EncoderLayer


SERVES = {
    "torch.nn.modules.activation.MultiheadAttention": _multihead,
    "torch.nn.modules.transformer.TransformerEncoderLayer": _encoder_layer,
}
