"""mmkernels as an attention implementation of Hugging Face transformers: `attn_implementation="mmkernels"`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.integrations.given_masks import add_biases, mask_and_bias, remember
from mmkernels.mask import Mask
from mmkernels.ops.attention.api import attention

NAME = "mmkernels"

NO_BIAS = False
"""A `position_bias` of zeros, for modules in whose language None means "compute it"."""


def register(name: str = NAME) -> None:
    """Make `attn_implementation=name` known to transformers: the attention function, and the mask function beside it.

    ::

        mmk.integrations.transformers.register()
        model = CLIPModel.from_pretrained(..., attn_implementation="mmkernels")   # or model.set_attn_implementation

    Models that do not go through transformers' attention interface need `mmk.patch(model)`, which also registers.

    Args:
        name: under which it is registered; not with "flash" in it, by which transformers would recognise another
            calling convention.

    Raises:
        ImportError: transformers is not installed, or is older than the mask interface.
    """
    if "flash" in name:
        raise ValueError(f'name must not contain "flash", which has a meaning of its own to transformers, got {name!r}')
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, attention_mask)


class Registered:
    """In a model, it makes whoever unpickles that model call `register`."""

    def __reduce__(self) -> Any:
        return _registered, ()


def _registered() -> Registered:
    register()
    return Registered()


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Any = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: (B, H, L, D) operands, output (B, Lq, Hq, Dv) and no weights.

    No mask means full attention: `is_causal`, in `kwargs` or on the module, is ignored as transformers' own eager
    functions ignore it, because our mask function never leaves a causal mask out. `position_bias` may also be a
    `RelativeBias` or `DecomposedBias`.

    Args:
        s_aux: (Hq,) logits of an attention sink: a further key of each head whose value is zero.
    """
    if kwargs.get("cache") is not None:
        raise ValueError(f'attn_implementation="{NAME}" has no paged cache; use "paged|sdpa" for continuous batching')
    if kwargs.get("output_attentions"):
        warnings.warn(f'attn_implementation="{NAME}" returns no attention weights; use "eager" for them', stacklevel=2)
    mask, added = mask_and_bias(attention_mask)
    position = None if position_bias is NO_BIAS else position_bias
    bias = add_biases(position, added, query.shape[2], key.shape[2])
    call: dict[str, Any] = {
        "mask": mask, "bias": bias, "scale": scaling, "softcap": softcap or None, "dropout_p": dropout,
    }  # fmt: skip
    if s_aux is None:
        out = attention(query, key, value, **call)
    else:
        out, lse = attention(query, key, value, return_lse=True, **call)
        share = torch.sigmoid(lse - s_aux.to(lse.dtype).view(1, -1, 1))
        out = out * share[..., None].to(out.dtype)
    return out.transpose(1, 2).contiguous(), None


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    allow_is_bidirectional_skip: bool = False,
    **kwargs: Any,
) -> Tensor | None:
    """A mask function of transformers: bool (B, 1, Lq, Lk), True where visible; None for full attention only.

    Padding alone is a view of (B, 1, 1, Lk), whose memory is that of the padding; causality, with or without padding,
    is remembered as a `Mask` beside the tensor that models expect, so that no layer looks at Lq x Lk values. No value
    is read on the host.
    """
    from transformers.masking_utils import (
        bidirectional_mask_function,
        causal_mask_function,
        prepare_padding_mask,
        sdpa_mask,
    )

    function = causal_mask_function if mask_function is None else mask_function
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None and padding.dim() == 2:
        padding = padding[:, None, None, kv_offset : kv_offset + kv_length]
    if function is bidirectional_mask_function:
        if padding is None and allow_is_bidirectional_skip:
            return None
        if padding is not None:
            return padding.expand(batch_size, 1, q_length, kv_length)
    kwargs["allow_is_causal_skip"] = False  # without a mask nobody would know of the causality
    dense = sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, function, attention_mask,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip, **kwargs,
    )  # fmt: skip
    if dense is not None and function is causal_mask_function and isinstance(q_offset, int) and q_offset >= kv_offset:
        mask = Mask.window(None, q_offset - kv_offset)
        remember(dense, mask if padding is None else mask & Mask.dense(padding))
    return dense
