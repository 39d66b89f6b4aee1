"""A lowered call as the parameters of Triton kernels: tuples of tensors, strides and sizes.

A segment list is a tuple for each of its facts, of which kernels choose by the segment's index. What is absent is None,
which the compiler knows, so that a kernel has no code for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkernels.bias import BIAS_DECOMPOSED, BIAS_DENSE, BIAS_NONE, BIAS_RELATIVE
from mmkernels.ops.attention.lowered import Lowered
from mmkernels.philox import dropout_threshold


class Operand(NamedTuple):
    """A (batch, head, row, feature) tensor with a unit last stride; a broadcast axis has stride 0."""

    data: Tensor | None
    batch: int
    head: int
    row: int


class Segments(NamedTuple):
    """A tuple with an entry for each segment. (No field may be called `values`: Triton's tuples have one.)"""

    key_data: tuple[Tensor, ...]
    key_batch: tuple[int, ...]
    key_head: tuple[int, ...]
    key_row: tuple[int, ...]
    value_data: tuple[Tensor, ...]
    value_batch: tuple[int, ...]
    value_head: tuple[int, ...]
    value_row: tuple[int, ...]


class Mask(NamedTuple):
    """Intervals (segment, batch, head, row) and a dense part (batch, head, row, key)."""

    start: Tensor | None
    start_stride: tuple[int, ...]
    stop: Tensor | None
    stop_stride: tuple[int, ...]
    visible: Tensor | None
    visible_stride: tuple[int, ...]
    visible_size: tuple[int, ...]
    exact: Tensor | None


class Bias(NamedTuple):
    """Parts, each as (batch, head, row, entry); a table's row axis is of size 1."""

    part: tuple[Tensor | None, ...]
    stride: tuple[tuple[int, ...], ...]
    size: tuple[tuple[int, ...], ...]
    zero: int


class Dropout(NamedTuple):
    """`seed` None: none. A pair is dropped iff its word is below `threshold`."""

    seed: Tensor | None
    threshold: int
    keep_scale: float
    batch: int
    head: int
    query: int
    key: int


class Shape(NamedTuple):
    """Sizes; packed sequences: `batch` of them, in `len_q` and `len_k` tokens."""

    batch: int
    heads: int
    group: int
    len_q: int
    len_k: int
    cu_q: Tensor | None
    cu_k: Tensor | None


class Call(NamedTuple):
    """What every kernel of a call takes."""

    query: Operand
    segments: Segments
    lengths: tuple[int, ...]
    offsets: tuple[int, ...]
    mask: Mask
    bias: Bias
    dropout: Dropout
    shape: Shape
    scale: float
    softcap: float


def operand(tensor: Tensor, packed: bool) -> Operand:
    """(B, H, L, D), or packed (T, H, D)."""
    if packed:
        return Operand(tensor, 0, tensor.stride(1), tensor.stride(0))
    strides = broadcast_strides(tensor)
    return Operand(tensor, strides[0], tensor.stride(1), tensor.stride(2))


def broadcast_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides, 0 along axes of one element."""
    return tuple(0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def described(call: Lowered) -> Call:
    """The call, whose operands have unit last strides, as kernels take it."""
    query, packed = call.query, call.cu_seqlens_q is not None
    keys, values = ([operand(tensor, packed) for tensor in tensors] for tensors in (call.keys, call.values))
    axis = 0 if packed else 2
    lengths = tuple(key.shape[axis] for key in call.keys)
    offsets = tuple(sum(lengths[:i]) for i in range(len(lengths)))
    heads = query.shape[1]
    if packed:
        batch = call.cu_seqlens_q.shape[0] - 1  # type: ignore[union-attr]
    else:
        batch = max(tensor.shape[0] for tensor in (query, *call.keys, *call.values))
    return Call(
        query=operand(query, packed),
        segments=Segments(*(tuple(fact) for fact in zip(*keys)), *(tuple(fact) for fact in zip(*values))),  # type: ignore[arg-type]
        lengths=lengths,
        offsets=offsets,
        mask=_mask(call),
        bias=_bias(call),
        dropout=_dropout(call),
        shape=Shape(
            batch, heads, heads // call.keys[0].shape[1] if call.keys[0].shape[1] else 1, query.shape[axis],
            sum(lengths), call.cu_seqlens_q, call.cu_seqlens_k,
        ),
        scale=call.scale,
        softcap=call.softcap,
    )  # fmt: skip


def _mask(call: Lowered) -> Mask:
    none = (0, 0, 0, 0)
    start = none if call.start is None else broadcast_strides(call.start)
    stop = none if call.stop is None else broadcast_strides(call.stop)
    if call.visible is None:
        return Mask(call.start, start, call.stop, stop, None, none, (1, 1), None)
    visible = call.visible.view(torch.uint8)
    exact = None if call.interval_exact is None else call.interval_exact.view(torch.uint8)
    return Mask(
        call.start, start, call.stop, stop, visible, broadcast_strides(visible), tuple(visible.shape[2:]), exact
    )


def as_planes(call: Lowered) -> list[Tensor]:
    """The parts of the bias as (batch, head, row, entry)."""
    if call.bias_kind == BIAS_RELATIVE:
        return [part[None, :, None] for part in call.bias]
    return list(call.bias)


def _bias(call: Lowered) -> Bias:
    assert call.bias_kind in (BIAS_NONE, BIAS_DENSE, BIAS_RELATIVE, BIAS_DECOMPOSED)
    planes = as_planes(call)
    return Bias(
        tuple(planes) or (None,),
        tuple(broadcast_strides(part) for part in planes) or ((0, 0, 0, 0),),
        tuple(tuple(part.shape[2:]) for part in planes) or ((1, 1),),
        call.relative_zero,
    )


def _dropout(call: Lowered) -> Dropout:
    if call.seed is None or call.dropout_p == 0.0:
        return Dropout(None, 0, 1.0, 0, 0, 0, 0)
    keep_scale = 0.0 if call.dropout_p >= 1.0 else 1.0 / (1.0 - call.dropout_p)
    # The largest word would survive p = 1: its weight is 0 all the same.
    threshold = min(dropout_threshold(call.dropout_p), 2**32 - 1)
    return Dropout(call.seed, threshold, keep_scale, *call.offsets)


def flags(call: Lowered) -> dict[str, Any]:
    """What the compiler knows of the call beyond what is absent."""
    folded = call.softcap == 0.0 and call.bias_kind == BIAS_NONE and call.scale > 0.0
    return {"BIAS": call.bias_kind, "SOFTCAP": call.softcap != 0.0, "FOLDED": folded}


def widths(call: Lowered) -> dict[str, int]:
    """Head dims, and the columns of the tiles that hold them."""
    dim, dim_v = call.query.shape[-1], call.values[0].shape[-1]
    return {"DIM": dim, "DIM_V": dim_v, "PADDED": padded(dim), "PADDED_V": padded(dim_v)}


def padded(width: int) -> int:
    """The power of two, from 16 on, that a matrix unit wants."""
    return max(16, 1 << (width - 1).bit_length())


def total_chunks(lengths: Sequence[int], chunk: int) -> int:
    """Chunks of all segments together."""
    return sum(-(-length // chunk) for length in lengths)
