"""What the stand-ins share: heads as views, and attention under the masks that models hand over."""

from __future__ import annotations

from torch import Tensor, nn

from mmkernels.bias import DecomposedBias
from mmkernels.integrations.given_masks import add_biases, mask_and_bias
from mmkernels.nn.common import merge_heads
from mmkernels.ops.attention.api import attention


def heads(x: Tensor, count: int) -> Tensor:
    """(B, L, count * D) as a view (B, count, L, D)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def probability(dropout: nn.Dropout) -> float:
    """What a dropout module would drop now."""
    return dropout.p if dropout.training else 0.0


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    position_bias: Tensor | DecomposedBias | None = None,
) -> Tensor:
    """(B, Lq, H * Dv) of attention over operands (B, H, L, D); `mask` is added, as these models do with any dtype."""
    if mask is not None and not mask.is_floating_point():
        mask = mask.to(query.dtype)
    visible, added = mask_and_bias(mask)
    bias = add_biases(position_bias, added, query.shape[2], key.shape[2])
    out = attention(query, key, value, mask=visible, bias=bias, dropout_p=dropout_p, scale=scale)
    return merge_heads(out)
