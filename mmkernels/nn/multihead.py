"""A drop-in for torch.nn.MultiheadAttention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.nn.common import Backed, check_probability
from mmkernels.ops.attention.api import attention
from mmkernels.philox import dropout_keep
from mmkernels.precision import accumulate_dtype


class MultiheadAttention(Backed, nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` over `mmkernels.attention`: the same arguments, parameters and state_dict.

    Differences: a query that may see no key gives zeros (plus the output bias), not NaN; with `need_weights` (the
    default, as in torch) the weights are computed beside the output, in O(Lq * Lk) memory, so pass
    `need_weights=False` where they are not used; `is_causal=True` without a mask means a causal mask. Without gradients
    `torch.nn.TransformerEncoderLayer` runs a fused kernel of torch's own and calls no attention module at all
    (`torch.backends.mha.set_fastpath_enabled(False)` stops that).

    Args:
        backend: name of a backend, or None; the others as in torch.nn.MultiheadAttention.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str | None = None,
    ) -> None:
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
        check_probability("dropout", dropout)
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype
        )
        self.backend = backend

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch.nn.MultiheadAttention.forward: (output, weights or None). A True in a bool mask hides the key."""
        batched = self._check(query, key, value)
        same_kv, same_qkv = value is key, query is key and value is key
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        # The axes stay as they came through the projections, so that these read and write dense memory.
        first = self.batch_first or not batched
        q, k, v = (self._heads(x, first) for x in self._project(query, key, value, same_kv, same_qkv))
        mask, bias = self._masks(attn_mask, key_padding_mask, q, k, need_weights, is_causal, batched)

        keys, values = [k], [v]
        if self.bias_k is not None and self.bias_v is not None:
            keys.append(self._heads(self.bias_k.to(k.dtype), first))
            values.append(self._heads(self.bias_v.to(v.dtype), first))
        if self.add_zero_attn:
            keys.append(k.new_zeros(1, self.num_heads, 1, self.head_dim))
            values.append(v.new_zeros(1, self.num_heads, 1, self.head_dim))
        extra = len(keys) - 1
        if extra:  # every query sees the added keys, without bias
            mask = None if mask is None else Mask.segments([mask] + [None] * extra)
            bias = None if bias is None else F.pad(bias, (0, extra))

        dropout_p = self.dropout if self.training else 0.0
        seed = torch.randint(2**63 - 1, (), device=q.device) if need_weights and dropout_p > 0 else None
        call: Any = {"mask": mask, "bias": bias, "dropout_p": dropout_p, "seed": seed, "backend": self.backend}
        out = attention(q, keys if extra else k, values if extra else v, **call)
        weights = _weights(q, keys, mask, bias, dropout_p, seed) if need_weights else None
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        out = self.out_proj((out.transpose(1, 2) if first else out.permute(2, 0, 1, 3)).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out, weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Whether the call is batched, if its tensors fit the module and each other."""
        widths = (self.embed_dim, self.kdim, self.vdim)
        for name, x, width in zip(("query", "key", "value"), (query, key, value), widths, strict=True):
            if not isinstance(x, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
            if x.is_nested:
                raise TypeError(f"{name} is a nested tensor: pack it for attention_varlen, or pad it")
            if x.dim() not in (2, 3) or x.dim() != query.dim() or x.shape[-1] != width:
                order = "(N, L, {})" if self.batch_first else "(L, N, {})"
                expected = f"{order.format(width)} or (L, {width}), with as many axes as query"
                raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {expected}")
        if key.shape[:-1] != value.shape[:-1]:
            raise ValueError(f"value has shape {tuple(value.shape)}, which does not match key's {tuple(key.shape)}")
        axis = 0 if self.batch_first else 1
        if query.dim() == 3 and query.shape[axis] != key.shape[axis]:
            raise ValueError(f"key has a batch of {key.shape[axis]}, but query has {query.shape[axis]}")
        return query.dim() == 3

    def _heads(self, x: Tensor, batch_first: bool) -> Tensor:
        """A view (N, heads, L, head_dim) of (N, L, E) or (L, N, E)."""
        x = x.unflatten(-1, (self.num_heads, self.head_dim))
        return x.transpose(1, 2) if batch_first else x.permute(1, 2, 0, 3)

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor, same_kv: bool, same_qkv: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, E wide: views of as few products as the inputs allow."""
        width, bias = self.embed_dim, self.in_proj_bias
        if not self._qkv_same_embed_dim:
            parts: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        elif same_qkv:
            q, k, v = F.linear(query, self.in_proj_weight, bias).split(width, -1)
            return q, k, v
        elif same_kv:
            q = F.linear(query, self.in_proj_weight[:width], None if bias is None else bias[:width])
            both = F.linear(key, self.in_proj_weight[width:], None if bias is None else bias[width:])
            k, v = both.split(width, -1)
            return q, k, v
        else:
            parts = self.in_proj_weight.split(width)
        biases = (None, None, None) if bias is None else bias.split(width)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), parts, biases, strict=True))
        return q, k, v

    def _masks(
        self,
        attn_mask: Tensor | None,
        padding: Tensor | None,
        q: Tensor,
        k: Tensor,
        need_weights: bool,
        is_causal: bool,
        batched: bool,
    ) -> tuple[Mask | None, Tensor | None]:
        """(mask, bias) of attention: bool masks hide, float masks are added."""
        batch, heads, q_len, k_len = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
        # As in torch, is_causal is a hint that attn_mask is the causal one, taken where the mask itself is not needed.
        # Under compile it may be symbolic (torch.nn's layers compare values to find it), and the mask says it too.
        hinted = padding is None and not need_weights and not torch.compiler.is_compiling()
        if (attn_mask is None or hinted) and is_causal:
            attn_mask, mask = None, Mask.causal()
        else:
            mask = None
        bias: Tensor | None = None
        if attn_mask is not None:
            _check_mask("attn_mask", attn_mask, ((q_len, k_len), (batch * heads, q_len, k_len)))
            attn_mask = attn_mask.expand(1, 1, -1, -1) if attn_mask.dim() == 2 else attn_mask.unflatten(0, (-1, heads))
            if attn_mask.dtype == torch.bool:
                mask = Mask.dense(~attn_mask)
            else:
                bias = attn_mask
        if padding is not None:
            _check_mask("key_padding_mask", padding, ((batch, k_len) if batched else (k_len,),))
            padding = padding.reshape(batch, 1, 1, k_len)
            if padding.dtype == torch.bool:
                visible = Mask.dense(~padding)
                mask = visible if mask is None else mask & visible
            else:
                bias = padding if bias is None else bias + padding
        return mask, bias


def _check_mask(name: str, mask: Tensor, shapes: tuple[tuple[int, ...], ...]) -> None:
    if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise TypeError(f"{name} must be a bool or floating point tensor, got {getattr(mask, 'dtype', type(mask))}")
    if tuple(mask.shape) not in shapes:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}, expected {' or '.join(map(str, shapes))}")


def _weights(
    query: Tensor, keys: list[Tensor], mask: Mask | None, bias: Tensor | None, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """The probabilities (N, heads, Lq, Lk) of an attention call, after its dropout; zeros where a row sees nothing."""
    batch, heads, q_len, head_dim = query.shape
    lengths = [key.shape[2] for key in keys]
    wide = accumulate_dtype(query.dtype)
    # Scaled before the product: a factor beside a view would make a copy of every key.
    scaled = query.to(wide) * head_dim**-0.5
    logits = torch.cat([scaled @ key.to(wide).transpose(-2, -1) for key in keys], -1)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        k_len = lengths if len(lengths) > 1 else lengths[0]
        logits = logits.masked_fill(~mask.to_dense(batch, heads, q_len, k_len, device=query.device), -torch.inf)
    # A softmax of its own: beside a bias of finfo.min, exp(logits - lse) would be 1 everywhere.
    empty = (logits == -torch.inf).all(-1, keepdim=True)
    weights = logits.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0)
    if dropout_p > 0 and seed is not None:
        keep = dropout_keep(seed, dropout_p, batch, heads, q_len, sum(lengths))
        weights = weights * keep / (1 - dropout_p) if dropout_p < 1 else weights * 0
    return weights.to(query.dtype)
