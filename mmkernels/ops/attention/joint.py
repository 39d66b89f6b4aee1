"""Joint attention: one call per query segment, each with its rows of the mask, the bias and the dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmkernels import routing
from mmkernels.bias import BIAS_RELATIVE
from mmkernels.ops.attention import check, front
from mmkernels.ops.attention.lowered import Lowered


def check_queries(queries: Any) -> list[Tensor]:
    """A list of at least one query segment (B or 1, Hq, L, D) of the same heads, dimension, dtype and device."""
    if isinstance(queries, Tensor) or not isinstance(queries, (list, tuple)):
        raise TypeError(f"queries must be a list of tensors (segments), got {type(queries).__name__}")
    segments = check.segments_of("queries", queries)
    dtype = routing.active_autocast_dtype(segments[0].device.type)
    if dtype is not None:
        segments = [routing.autocast(query, dtype) for query in segments]
    first = segments[0]
    for index, query in enumerate(segments):
        if query.dim() != 4:
            raise ValueError(f"queries[{index}] has shape {tuple(query.shape)}, expected 4 axes (B, Hq, Lq, D)")
        if (query.shape[1], query.shape[3]) != (first.shape[1], first.shape[3]):
            raise ValueError(
                f"queries[{index}] has shape {tuple(query.shape)}, expected {first.shape[1]} heads and a head "
                f"dimension of {first.shape[3]} as queries[0] has"
            )
        if query.dtype != first.dtype:
            raise TypeError(f"queries[{index}] has dtype {query.dtype}, expected {first.dtype} as queries[0] has")
        if query.device != first.device:
            raise ValueError(f"queries[{index}] is on {query.device}, expected {first.device} as queries[0] is")
    return segments


def lower_joint(
    queries: Sequence[Tensor], keys: list[Tensor], values: list[Tensor], mask: Any, bias: Any, scale: Any, softcap: Any,
    dropout_p: Any, seed: Any, offsets: Any,
) -> list[Lowered]:  # fmt: skip
    """One lowered call per query segment; mask, bias and seed are lowered once for the concatenated query axis."""
    batch = 1
    for index, query in enumerate(queries):
        names = check.Names(f"queries[{index}]", "keys", "values", listed=True)
        own = front.batch_of(*front.autocast_operands(query, keys, values), names)
        if own != 1 and batch != 1 and batch != own:
            raise ValueError(f"queries[{index}] has shape {tuple(query.shape)}, expected a batch of {batch} or 1")
        batch = own if batch == 1 else batch
    total = sum(query.shape[2] for query in queries)
    whole = front.lower(
        queries[0], keys, values, mask, bias, scale, softcap, dropout_p, seed, offsets, check.LISTED, (batch, total)
    )  # fmt: skip
    k_len = sum(key.shape[2] for key in keys)
    calls, first = [], 0
    for query in queries:
        query = query if query.shape[0] == batch else query.expand(batch, -1, -1, -1)
        calls.append(_slice_rows(whole, first, query, k_len))
        first = first + query.shape[2]
    return calls


def _slice_rows(call: Lowered, first: int, query: Tensor, k_len: int) -> Lowered:
    """The call of a query segment that stands at ``first`` on the concatenated query axis of ``call``.

    Mask, bias and the dropout's query offset are those of its rows; ``k_len`` is the length of the whole key axis.
    """
    count = query.shape[2]

    def rows(tensor: Tensor, axis: int) -> Tensor:
        return tensor if tensor.shape[axis] == 1 else tensor.narrow(axis, first, count)

    def optional_rows(tensor: Tensor | None, axis: int) -> Tensor | None:
        return None if tensor is None else rows(tensor, axis)

    bias, zero = list(call.bias), call.relative_zero
    if call.bias_kind == BIAS_RELATIVE:
        # Row i of the segment is row first + i of the whole: entry key - i - first + Lq - 1.
        total, width = call.relative_zero + 1, max(count + k_len - 1, 0)
        bias, zero = [bias[0].narrow(1, max(total - first - count, 0), width)], count - 1
    elif bias:
        bias = [rows(part, 2) for part in bias]
    offsets = (call.offsets[0], call.offsets[1], call.offsets[2] + first, call.offsets[3])
    return call._replace(
        query=query, start=optional_rows(call.start, 3), stop=optional_rows(call.stop, 3),
        visible=optional_rows(call.visible, 2), bias=bias, relative_zero=zero, offsets=offsets,
    )  # fmt: skip
