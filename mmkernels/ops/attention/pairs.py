"""The plane of (row, key) pairs of one lowered attention call: who is visible, which bias, which pair is dropped.

Packed sequences become one plane (1, Hq, Tq, Tk) in which a row sees no other sequence, so that nothing has to be read
on the host. That costs time and memory for pairs across sequences: this is the definition, not a fast kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkernels.bias import BIAS_DECOMPOSED, BIAS_NONE, BIAS_RELATIVE, decomposed_to_dense
from mmkernels.mask_call import values_may_be_read
from mmkernels.ops.attention.lowered import Lowered
from mmkernels.philox import dropout_keep, dropout_keep_varlen
from mmkernels.precision import accumulate_dtype


class Pairs:
    """The pairs of one call, all heads at once; every tensor here broadcasts to (B, Hq, Lq, Lk)."""

    def __init__(self, call: Lowered) -> None:
        self.call = call
        self.device = call.query.device
        self.dtype = accumulate_dtype(call.query.dtype)
        self.varlen = call.cu_seqlens_q is not None
        if call.cu_seqlens_q is not None and call.cu_seqlens_k is not None:
            self.batch, (self.q_len, self.q_heads, _) = 1, call.query.shape
            self.k_heads = call.keys[0].shape[1]
            self.k_lens = [call.keys[0].shape[0]]
            self.q_sequence, self.q_local, q_inside = places(call.cu_seqlens_q, self.q_len)
            self.k_sequence, self.k_local, k_inside = places(call.cu_seqlens_k, self.k_lens[0])
            self.together = (self.q_sequence[:, None] == self.k_sequence) & q_inside[:, None] & k_inside
        else:
            self.batch, self.q_heads, self.q_len, _ = call.query.shape
            self.k_heads = call.keys[0].shape[1]
            self.k_lens = [key.shape[2] for key in call.keys]
        self.k_len = sum(self.k_lens)
        self.shape = (self.batch, self.q_heads, self.q_len, self.k_len)
        group = self.q_heads // self.k_heads if self.k_heads else 1
        self.grouped_rows = (self.batch, self.k_heads, group * self.q_len)

    def grouped(self, rows: Tensor) -> Tensor:
        """(B, Hq, Lq, n) as (B, Hk, group * Lq, n): the rows that share a key head side by side."""
        return rows.reshape(*self.grouped_rows, rows.shape[-1])

    def padded(self, packed: Tensor) -> Tensor:
        """(T, H, n) as (1, H, T, n); a padded call's tensors are left alone."""
        return packed.transpose(0, 1)[None] if self.varlen else packed

    def packed(self, padded: Tensor) -> Tensor:
        """The way back from `padded`."""
        return padded[0].transpose(0, 1) if self.varlen else padded

    def joined(self, segments: list[Tensor]) -> Tensor:
        """The key or value segments as one tensor (B or 1, Hk, Lk, n) in the accumulation dtype."""
        if len(segments) == 1:
            return self.padded(segments[0]).to(self.dtype)
        batch = next((segment.shape[0] for segment in segments if segment.shape[0] != 1), 1)  # 1 broadcasts to 0 too
        return torch.cat([segment.to(self.dtype).expand(batch, -1, -1, -1) for segment in segments], dim=2)

    def bias(self) -> Tensor | None:
        """The bias of every pair, or None."""
        call = self.call
        if call.bias_kind == BIAS_NONE:
            return None
        whole = call.bias_kind != BIAS_DECOMPOSED  # two least numbers would add up to -inf
        tensors = [_widen(tensor, self.dtype, whole) for tensor in call.bias]
        if call.bias_kind == BIAS_RELATIVE:
            return tensors[0][:, self._distance(tensors[0].shape[1])][None]
        dense = decomposed_to_dense(*tensors) if call.bias_kind == BIAS_DECOMPOSED else tensors[0]
        return self._spread(dense) if self.varlen else dense

    def visible(self, bias: Tensor | None) -> Tensor | None:
        """Which pairs count, or None for all of them; a bias of -inf masks its pair."""
        call = self.call
        seen = None
        if call.start is not None and call.stop is not None:
            seen = self._inside_intervals(call.start, call.stop)
        if call.visible is not None:
            dense = self._spread(call.visible) if self.varlen else call.visible
            seen = dense if seen is None else seen & dense
        if self.varlen:
            seen = self.together if seen is None else seen & self.together
        if call.unmask_empty_rows and seen is not None:
            empty = ~seen.expand(*seen.shape[:3], self.k_len).any(-1, keepdim=True)
            seen = seen | (empty & self.together if self.varlen else empty)
        if bias is not None:
            seen = bias != -torch.inf if seen is None else seen & (bias != -torch.inf)
        return seen

    def kept(self) -> Tensor | None:
        """1 / (1 - p) for the pairs that dropout keeps and 0 for the others, or None without dropout."""
        call = self.call
        if call.dropout_p == 0.0 or call.seed is None:
            return None
        if self.varlen:
            places = (self.q_sequence, self.q_local, self.k_local)
            keep = dropout_keep_varlen(call.seed, call.dropout_p, self.q_heads, *places, call.offsets)
        else:
            keep = dropout_keep(call.seed, call.dropout_p, *self.shape, call.offsets)
        return keep.to(self.dtype) * (1.0 / (1.0 - call.dropout_p) if call.dropout_p < 1.0 else 0.0)

    def bias_gradients(self, d_logits: Tensor) -> list[Tensor]:
        """Gradients of the bias tensors from those of all pairs (B, Hq, Lq, Lk), summed over every broadcast axis."""
        call = self.call
        if call.bias_kind == BIAS_NONE:
            return []
        if call.bias_kind == BIAS_RELATIVE:
            table = call.bias[0]
            sums = d_logits.new_zeros((self.q_heads, table.shape[1]))
            place = self._distance(table.shape[1]).flatten()
            sums = sums.index_add(1, place, d_logits.sum(0).flatten(1))
            return [sums.sum_to_size(table.shape).to(table.dtype)]
        if call.bias_kind != BIAS_DECOMPOSED:
            dense = call.bias[0]
            return [self._collect(d_logits, dense.shape).sum_to_size(dense.shape).to(dense.dtype).contiguous()]
        rel_h, rel_w = call.bias
        kh, kw = rel_h.shape[-1], rel_w.shape[-1]
        shape = (*torch.broadcast_shapes(rel_h.shape[:3], rel_w.shape[:3]), kh * kw)
        grid = self._collect(d_logits, shape).unflatten(-1, (kh, kw))
        rows, columns = grid.sum(-1), grid.sum(-2)
        return [rows.sum_to_size(rel_h.shape).to(rel_h.dtype), columns.sum_to_size(rel_w.shape).to(rel_w.dtype)]

    def _inside_intervals(self, start: Tensor, stop: Tensor) -> Tensor:
        pieces = []
        for segment, length in enumerate(self.k_lens):
            key = self.k_local if self.varlen else torch.arange(length, device=self.device)
            first = start[segment if start.shape[0] > 1 else 0][..., None]
            last = stop[segment if stop.shape[0] > 1 else 0][..., None]
            pieces.append((key >= first) & (key < last))
        if len(pieces) == 1:
            return pieces[0]
        rows = torch.broadcast_shapes(*(piece.shape[:3] for piece in pieces))
        return torch.cat([piece.expand(*rows, -1) for piece in pieces], dim=-1)

    def _distance(self, entries: int) -> Tensor:
        """Each pair's entry of a relative table, (Lq, Lk); pairs across sequences get any that exists."""
        query = self.q_local if self.varlen else torch.arange(self.q_len, device=self.device)
        key = self.k_local if self.varlen else torch.arange(self.k_len, device=self.device)
        return (key[None, :] - query[:, None] + self.call.relative_zero).clamp(0, max(entries - 1, 0))

    def _spread_index(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        def clamped(place: Tensor, size: int) -> Tensor:
            return place.clamp(0, max(size - 1, 0))

        return (
            clamped(self.q_sequence[:, None], shape[0]),
            clamped(self.q_local[:, None], shape[2]),
            clamped(self.k_local[None, :], shape[3]),
        )

    def _spread(self, local: Tensor) -> Tensor:
        """(N, H, max_q, max_k) in local indices as (1, H, Tq, Tk), any axis but the token axes may stay 1."""
        sequence, row, key = self._spread_index(local.shape)
        return local.movedim(1, -1)[sequence, row, key].permute(2, 0, 1)[None]

    def _collect(self, d_logits: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The way back from `_spread`, adding up; a padded call's gradient is left alone."""
        if not self.varlen:
            return d_logits
        sums = d_logits.new_zeros((shape[0], shape[2], shape[3], self.q_heads))
        index = self._spread_index(shape)
        return sums.index_put(index, d_logits[0].permute(1, 2, 0), accumulate=True).movedim(-1, 1)


def places(cu_seqlens: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each token's sequence, its index in it, and whether it is in any."""
    count = cu_seqlens.shape[0] - 1
    index = torch.arange(tokens, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens, index, right=True) - 1
    inside = (sequence >= 0) & (sequence < count)
    sequence = sequence.clamp(0, max(count - 1, 0))
    return sequence, (index - cu_seqlens[sequence]).long(), inside


def _widen(tensor: Tensor, dtype: torch.dtype, whole: bool) -> Tensor:
    """To the accumulation dtype; a finite fp64 number stays finite in fp32, because -inf would mask its pair.

    The least number of fp16, where it is the whole bias, becomes the least of `dtype`: beside either a logit is lost,
    and a row of nothing else is uniform.
    """
    if tensor.dtype == torch.float64 and dtype != torch.float64:
        limit = torch.finfo(dtype).max
        tensor = torch.where(tensor.isinf(), tensor, tensor.clamp(-limit, limit))
    if tensor.dtype == torch.float16 and whole:
        wide = tensor.to(dtype)
        least = (wide.detach() == torch.finfo(torch.float16).min).to(dtype)
        return wide + least * torch.finfo(dtype).min  # a sum: the gradient passes
    return tensor.to(dtype)


def all_finite(*tensors: Tensor) -> bool:
    """Whether the host may look and finds no NaN or infinity; the sum of finite numbers may overflow, which is safe."""
    return all(values_may_be_read(tensor) and bool(tensor.detach().sum().isfinite()) for tensor in tensors)
