"""diffusers: attention processors, joint attention as segments, and the end of FLUX's single blocks.

What is served is the processor, a plain object that an attention module calls. Models that shard their attention over
devices (`_parallel_config`) keep the library's own call.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.integrations.given_masks import mask_and_bias
from mmkernels.integrations.rebinding import is_plain, with_names
from mmkernels.integrations.stand_ins.common import heads
from mmkernels.integrations.stand_ins.making import finish
from mmkernels.mask import Mask
from mmkernels.nn.common import merge_heads
from mmkernels.ops.attention.api import attention, joint_attention, scaled_dot_product_attention
from mmkernels.ops.fusion.api import concat_fusion

Stream = tuple[Tensor, Tensor, Tensor]
"""Query, key and value of one modality, (B, H, L, D)."""

_FUSION_SLOWER_IN = {torch.bfloat16: "concat_fusion runs at 0.82 to 1.00 x cat and linear in bf16"}

_DISPATCH = "dispatch_attention_fn"


def _jointly(streams: list[Stream], mask: Mask | None = None, bias: Tensor | None = None) -> list[Tensor]:
    """(B, L, H * D) per stream: the tokens of every stream over those of all streams."""
    queries, keys, values = (list(parts) for parts in zip(*streams, strict=True))
    return [merge_heads(out) for out in joint_attention(queries, keys, values, mask=mask, bias=bias)]


def _normed(norm: Any, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _projected(attn: Any, x: Tensor) -> tuple[Tensor, ...]:
    return attn.to_qkv(x).chunk(3, -1) if attn.fused_projections else (attn.to_q(x), attn.to_k(x), attn.to_v(x))


def _added(attn: Any, x: Tensor) -> tuple[Tensor, ...]:
    if attn.fused_projections:
        return attn.to_added_qkv(x).chunk(3, -1)
    return attn.add_q_proj(x), attn.add_k_proj(x), attn.add_v_proj(x)


def _sd3(cls: Any) -> type:
    class Processor(cls):
        """Image and text, each with its projections, over both (SD3)."""

        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None,
            *args: Any, **kwargs: Any,
        ) -> Any:  # fmt: skip
            q, k, v = (heads(to(hidden_states), attn.heads) for to in (attn.to_q, attn.to_k, attn.to_v))
            streams = [(_normed(attn.norm_q, q), _normed(attn.norm_k, k), v)]
            if encoder_hidden_states is not None:
                projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
                q, k, v = (heads(to(encoder_hidden_states), attn.heads) for to in projections)
                streams.append((_normed(attn.norm_added_q, q), _normed(attn.norm_added_k, k), v))
            image, *text = _jointly(streams)
            image = attn.to_out[1](attn.to_out[0](image))
            if not text:
                return image
            return image, text[0] if attn.context_pre_only else attn.to_add_out(text[0])

    return Processor


def _flux(cls: Any) -> type:
    rotate = sys.modules[cls.__module__].apply_rotary_emb

    def stream(projected: tuple[Tensor, ...], width: int, norms: tuple[Any, Any], turns: Any) -> Stream:
        q, k, v = (x.unflatten(-1, (-1, width)) for x in projected)
        q, k = norms[0](q), norms[1](k)
        if turns is not None:
            q, k = rotate(q, turns, sequence_dim=1), rotate(k, turns, sequence_dim=1)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    class Processor(cls):
        """Text and image over both, rotated by their positions in text and image; or one stream over itself (FLUX)."""

        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None,
            image_rotary_emb: Any = None,
        ) -> Any:  # fmt: skip
            joint = encoder_hidden_states is not None
            if self._parallel_config is not None or joint != (attn.added_kv_proj_dim is not None):
                return super().__call__(
                    attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
                )  # fmt: skip
            mask, bias = mask_and_bias(_four_axes(attention_mask))
            text = encoder_hidden_states.shape[1] if joint else 0
            turns = text_turns = None
            if image_rotary_emb is not None:
                turns, text_turns = [x[text:] for x in image_rotary_emb], [x[:text] for x in image_rotary_emb]
            width = attn.head_dim
            streams = [stream(_projected(attn, hidden_states), width, (attn.norm_q, attn.norm_k), turns)]
            if not joint:
                return _jointly(streams, mask, bias)[0]
            norms = (attn.norm_added_q, attn.norm_added_k)
            streams.insert(0, stream(_added(attn, encoder_hidden_states), width, norms, text_turns))
            text_out, image_out = _jointly(streams, mask, bias)
            return attn.to_out[1](attn.to_out[0](image_out)), attn.to_add_out(text_out)

    return Processor


def _flux_single(cls: Any) -> type:
    class Block(cls):
        """The last product of a parallel block: of attention and MLP side by side, with gate and residual (FLUX)."""

        note = "proj_out of attention and MLP, gate and residual as one concat_fusion"
        slower_in = _FUSION_SLOWER_IN

        def forward(
            self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, image_rotary_emb: Any = None,
            joint_attention_kwargs: Any = None,
        ) -> Any:  # fmt: skip
            if not _is_plain(self.proj_out):
                return super().forward(
                    hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs
                )
            text = encoder_hidden_states.shape[1]
            residual = torch.cat([encoder_hidden_states, hidden_states], 1)
            x, gate = self.norm(residual, emb=temb)
            widened = self.act_mlp(self.proj_mlp(x))
            attended = self.attn(hidden_states=x, image_rotary_emb=image_rotary_emb, **(joint_attention_kwargs or {}))
            weight, bias = self.proj_out.weight, self.proj_out.bias
            out = concat_fusion([attended, widened], weight, bias, gate=gate.unsqueeze(1), residual=residual)
            if out.dtype == torch.float16:
                out = out.clip(-65504, 65504)
            return out[:, :text], out[:, text:]

    return Block


def _is_plain(linear: nn.Module) -> bool:
    """Whether a call of this module is the product with its weight and no more: no adapter, quantisation or hook."""
    hooked = linear._forward_hooks or linear._forward_pre_hooks or "forward" in linear.__dict__
    return type(linear) is nn.Linear and not hooked and type(linear.weight) is nn.Parameter


def _four_axes(mask: Tensor | None) -> Tensor | None:
    """A mask of the keys alone, (B, Lk), as (B, 1, 1, Lk)."""
    return mask[:, None, None] if mask is not None and mask.dim() == 2 else mask


def _qwen_image(cls: Any) -> type:
    rotate = sys.modules[cls.__module__].apply_rotary_emb_qwen

    class Processor(cls):
        """Text with padding and image over both; padding is hidden in the text's segment only (Qwen-Image)."""

        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None,
            encoder_hidden_states_mask: Any = None, attention_mask: Any = None, image_rotary_emb: Any = None,
        ) -> Any:  # fmt: skip
            padding = encoder_hidden_states_mask
            odd = encoder_hidden_states is None or attention_mask is not None or self._parallel_config is not None
            if odd or (padding is not None and padding.dtype != torch.bool):
                return super().__call__(
                    attn, hidden_states, encoder_hidden_states, padding, attention_mask, image_rotary_emb
                )
            mask = None if padding is None else Mask.segments([Mask.dense(padding[:, None, None]), None])
            turns, text_turns = (None, None) if image_rotary_emb is None else image_rotary_emb
            width = attn.inner_dim // attn.heads
            streams = []
            for projected, norms, angles in (
                (_added(attn, encoder_hidden_states), (attn.norm_added_q, attn.norm_added_k), text_turns),
                (_projected(attn, hidden_states), (attn.norm_q, attn.norm_k), turns),
            ):
                q, k, v = (x.unflatten(-1, (-1, width)) for x in projected)
                q, k = _normed(norms[0], q), _normed(norms[1], k)
                if angles is not None:
                    q, k = rotate(q, angles, use_real=False), rotate(k, angles, use_real=False)
                streams.append((q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)))
            text, image = _jointly(streams, mask)
            image = attn.to_out[0](image)
            return attn.to_out[1](image) if len(attn.to_out) > 1 else image, attn.to_add_out(text)

    return Processor


def _unet(cls: Any) -> type:
    class Processor(cls):
        """Over the image's own tokens or the text's (Stable Diffusion's UNets, and most older models)."""

        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None,
            temb: Any = None, *args: Any, **kwargs: Any,
        ) -> Tensor:  # fmt: skip
            if args or kwargs.get("scale") is not None:  # the library warns of both
                return super().__call__(
                    attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs
                )
            x = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
            grid = x.shape[2:] if x.dim() == 4 else None
            if grid is not None:
                x = x.flatten(2).transpose(1, 2)
            if attn.group_norm is not None:
                x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
            context = x if encoder_hidden_states is None else encoder_hidden_states
            if encoder_hidden_states is not None and attn.norm_cross:
                context = attn.norm_encoder_hidden_states(context)
            q, k, v = (heads(y, attn.heads) for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
            mask, bias = mask_and_bias(_of_heads(attn, attention_mask, context))
            out = attention(_normed(attn.norm_q, q), _normed(attn.norm_k, k), v, mask=mask, bias=bias)
            out = attn.to_out[1](attn.to_out[0](merge_heads(out)))
            if grid is not None:
                out = out.transpose(1, 2).unflatten(2, grid)
            return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor

    return Processor


def _of_heads(attn: Any, mask: Tensor | None, context: Tensor) -> Tensor | None:
    """A mask (B, 1 or Lq, Lk) with an axis of heads, as a view where the library would repeat it."""
    if mask is None:
        return None
    batch, length = context.shape[:2]
    if mask.shape[0] == batch and mask.shape[-1] == length and mask.dim() == 3:
        return mask.unsqueeze(1)
    return attn.prepare_attention_mask(mask, length, batch).unflatten(0, (batch, attn.heads))


@functools.cache
def dispatched(cls: Any) -> Any:
    """For a processor class that calls diffusers' dispatcher, a subclass whose calls go to mmkernels; else None."""
    call = cls.__call__
    if not is_plain(call) or _DISPATCH not in call.__code__.co_names or _DISPATCH not in call.__globals__:
        return None
    made: Any = type(cls.__name__, (cls,), {"__call__": with_names(call, **{_DISPATCH: _dispatch(call)})})
    return finish(made, cls, dispatched, cls)


def _dispatch(call: Any) -> Callable[..., Tensor]:
    library = call.__globals__[_DISPATCH]

    def dispatch_attention_fn(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False, attention_kwargs: Any = None,
        *, backend: Any = None, parallel_config: Any = None,
    ) -> Tensor:  # fmt: skip
        """Operands (B, L, H, D), as the library's function takes them; which of its backends was chosen is moot."""
        if attention_kwargs or parallel_config is not None:
            return library(
                query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, attention_kwargs,
                backend=backend, parallel_config=parallel_config,
            )  # fmt: skip
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        out = scaled_dot_product_attention(
            q, k, v, _four_axes(attn_mask), dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return out.transpose(1, 2)

    return dispatch_attention_fn


_MODELS = "diffusers.models."

SERVES = {
    _MODELS + "attention_processor.JointAttnProcessor2_0": _sd3,
    _MODELS + "attention_processor.AttnProcessor2_0": _unet,
    _MODELS + "transformers.transformer_flux.FluxAttnProcessor": _flux,
    _MODELS + "transformers.transformer_flux.FluxSingleTransformerBlock": _flux_single,
    _MODELS + "transformers.transformer_qwenimage.QwenDoubleStreamAttnProcessor2_0": _qwen_image,
}
