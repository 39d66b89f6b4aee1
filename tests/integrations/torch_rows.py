"""torch.nn's own attention modules, as they are built from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.integrations.rows import Row, only, padding, real

WIDTH, HEADS = 32, 4


class Attention(nn.Module):
    """nn.MultiheadAttention as users call it: one input, or a query and a context."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, query: torch.Tensor, key: Any = None, value: Any = None, **call: Any) -> torch.Tensor:
        key = query if key is None else key
        return self.attention(query, key, key if value is None else value, need_weights=False, **call)[0]


def hidden(length: int = 9) -> torch.Tensor:
    """True hides, as torch.nn has it."""
    return padding(2, length, 5) == 0


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 37, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH))


def encoder_inputs(model: Any) -> dict[str, Any]:
    return {"src": torch.randn(2, 9, WIDTH), "src_key_padding_mask": hidden()}


def masked_inputs(model: Any) -> dict[str, Any]:
    mask = torch.rand(9, 9) < 0.4
    mask[:, 0] = False
    return encoder_inputs(model) | {"mask": mask}


def causal_inputs(model: Any) -> dict[str, Any]:
    causal = nn.Transformer.generate_square_subsequent_mask(9)
    floats = torch.zeros(2, 9).masked_fill(hidden(), -torch.inf)
    return {"src": torch.randn(2, 9, WIDTH), "mask": causal, "src_key_padding_mask": floats}


def decoder() -> nn.Module:
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 37, dropout=0.0, batch_first=True)
    return nn.TransformerDecoder(layer, 2)


def decoder_inputs(model: Any) -> dict[str, Any]:
    return {
        "tgt": torch.randn(2, 7, WIDTH), "memory": torch.randn(2, 9, WIDTH), "memory_key_padding_mask": hidden(),
        "tgt_mask": torch.ones(7, 7, dtype=torch.bool).triu(1), "tgt_is_causal": True,
    }  # fmt: skip


def unpadded(out: torch.Tensor, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [real(out, ~hidden())]


def several(model: Any) -> dict[str, Any]:
    """One mask for each head of each entry; the first key stays visible."""
    mask = torch.rand(2 * HEADS, 9, 9) < 0.4
    mask[:, :, 0] = False
    return {"query": torch.randn(2, 9, WIDTH), "attn_mask": mask}


ROWS = [
    Row("nn.MultiheadAttention", Attention, lambda m: {"query": torch.randn(2, 9, WIDTH), "key_padding_mask": hidden()},
        only, 1, slow=False),
    Row("nn.MultiheadAttention, 3-D mask", Attention, several, only, 1),
    Row("nn.MultiheadAttention, unbatched", Attention, lambda m: {"query": torch.randn(9, WIDTH)}, only, 1),
    Row("nn.MultiheadAttention, everything", lambda: Attention(kdim=6, vdim=10, add_bias_kv=True, add_zero_attn=True),
        lambda m: {"query": torch.randn(2, 7, WIDTH), "key": torch.randn(2, 9, 6), "value": torch.randn(2, 9, 10),
                   "key_padding_mask": hidden()}, only, 1),
    Row("nn.TransformerEncoder", encoder, encoder_inputs, unpadded, 2, slow=False),
    Row("nn.TransformerEncoder, masked", encoder, masked_inputs, unpadded, 2),
    Row("nn.TransformerEncoder, norm first, causal", lambda: encoder(norm_first=True, activation="gelu"), causal_inputs,
        unpadded, 2),
    Row("nn.TransformerDecoder", decoder, decoder_inputs, only, 4),
]  # fmt: skip
