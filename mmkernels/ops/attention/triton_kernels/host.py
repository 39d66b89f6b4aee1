"""Launches the Triton kernels of attention: allocates what they write, chooses tiles, reads no value of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkernels.bias import BIAS_DENSE, BIAS_RELATIVE
from mmkernels.layout import empty_gradient, empty_like_query, unit_last_stride
from mmkernels.ops.attention.lowered import Lowered, empty_lse
from mmkernels.ops.attention.triton_kernels import call as calls
from mmkernels.ops.attention.triton_kernels import tables
from mmkernels.ops.attention.triton_kernels.backward_bias import attention_grad_bias
from mmkernels.ops.attention.triton_kernels.backward_keys import attention_grad_keys
from mmkernels.ops.attention.triton_kernels.backward_query import attention_grad_query
from mmkernels.ops.attention.triton_kernels.call import Operand
from mmkernels.ops.attention.triton_kernels.forward import States, attention_forward, attention_merge
from mmkernels.ops.attention.triton_kernels.pairs import Statistics
from mmkernels.ops.attention.triton_kernels.statistics import attention_delta, attention_far_rows
from mmkernels.triton_launch import Device, device_of, options, precision

__all__ = ["Device", "backward", "device_of", "forward"]

FEW_ROWS = 64
"""So many query rows of a head (packed sequences: on average) share their tiles with the other heads of a group."""


def size_of(call: Lowered, few: bool = False) -> str:
    """The size class of a call in the table."""
    folded = calls.flags(call)["FOLDED"]
    if not folded or call.visible is not None or call.seed is not None:
        return "general"
    return "few" if few else "many"


MOST_PACKED_CHUNKS = 64
"""Packed sequences of more keys together are not split: there would be a state for each chunk of all of them."""


class Plan(NamedTuple):
    """The programs of a launch over tiles of query rows."""

    tile: tables.Tile
    pack: int
    tiles: int
    programs: int
    chunks: int
    splits: int


def plan_rows(call: Lowered, described: calls.Call, device: Device, op: str) -> Plan:
    """Tiles of rows of the op; only the forward may split its keys."""
    shape, packed = described.shape, call.cu_seqlens_q is not None
    rows = shape.len_q / max(shape.batch, 1) if packed else shape.len_q
    few = rows <= FEW_ROWS
    width = max(calls.padded(call.query.shape[-1]), calls.padded(call.values[0].shape[-1]))
    tile = tables.tile(device.arch, op, call.query.dtype, width, size_of(call, few))
    pack = shape.group if few else 1
    tiles = -(-shape.len_q * pack // tile.height) + (shape.batch if packed else 0)
    programs = tiles * (shape.heads // pack) * (1 if packed else shape.batch)
    # Of packed sequences, as many as the longest may have, which the host does not know.
    chunks = calls.total_chunks(described.lengths, tile.chunk)
    splits = op == "forward" and 1 < chunks and programs < device.processors
    splits = splits and not (packed and chunks > MOST_PACKED_CHUNKS)
    return Plan(tile, pack, tiles, programs, chunks, chunks if splits else 1)


def forward(call: Lowered, with_lse: bool, device: Device) -> tuple[Tensor, Tensor | None]:
    """(out, lse) of a call whose operands have unit last strides."""
    query, packed = call.query, call.cu_seqlens_q is not None
    out = empty_like_query(query, call.values[0].shape[-1])
    lse = empty_lse(query, packed) if with_lse else None
    if out.numel() == 0:
        return out, lse
    found = calls.described(call)
    plan = plan_rows(call, found, device, "forward")
    tile, width = plan.tile, calls.widths(call)
    shared = {"HEIGHT": tile.height, "PACK": plan.pack > 1, "FOLDED": calls.flags(call)["FOLDED"]}
    states = None
    if plan.chunks > 1:
        states = empty_states(plan.programs * plan.splits * tile.height, width["PADDED_V"], query.device)
    results = calls.operand(out, packed), statistics_operand(lse, packed)
    grid = (plan.programs, plan.tiles, plan.pack, plan.chunks)
    attention_forward[(plan.programs * plan.splits,)](
        *results, states, *found, *grid, **width, **shared, KEYS=tile.keys, CHUNK=tile.chunk,
        BIAS=call.bias_kind, SOFTCAP=call.softcap != 0.0, SPLIT=plan.splits > 1,
        PRECISION=precision(query.dtype, device.arch), HOIST=hoists(device, query.dtype), **options_of(tile, device),
    )  # fmt: skip
    if plan.splits > 1:
        attention_merge[(plan.programs,)](
            *results, states, found.shape, found.dropout, *grid, DIM_V=width["DIM_V"], PADDED_V=width["PADDED_V"],
            CHUNK=tile.chunk, **shared, **options_of(tile, device),
        )  # fmt: skip
    return out, lse


def options_of(tile: tables.Tile, device: Device) -> dict[str, Any]:
    """Of the compiler."""
    return options(device.arch, tile.warps, tile.stages, tile.registers)


def hoists(device: Device, dtype: torch.dtype) -> bool:
    """Whether the forward has registers to spare: sm_100 sums products of 16 bits in the tensor cores' memory."""
    return device.arch == "sm_100" and dtype.itemsize == 2


def statistics_operand(tensor: Tensor | None, packed: bool) -> Operand:
    """Numbers of rows: (B, H, L), or packed (H, T)."""
    if tensor is None:
        return Operand(None, 0, 0, 0)
    strides = (0, *tensor.stride()) if packed else tensor.stride()
    return Operand(tensor, *strides)


def empty_states(rows: int, width: int, device: torch.device) -> States:
    """Room for the states of rows."""
    return States(
        torch.empty(rows, dtype=torch.float32, device=device),
        torch.empty(rows, dtype=torch.float32, device=device),
        torch.empty(rows * width, dtype=torch.float32, device=device),
    )


# ---- backward ----


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool],
    device: Device,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:  # fmt: skip
    """Dense gradients of the needed ones of query, keys, values, bias; (0,) and [] for the others."""
    query = empty_gradient(call.query) if needs[0] else out.new_empty((0,))
    keys = [empty_gradient(key) for key in call.keys] if needs[1] else []
    values = [empty_gradient(value) for value in call.values] if needs[2] else []
    bias = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in call.bias] if needs[3] else []
    if out.numel() == 0:  # no program to write the zeros
        for grad in (query, *keys, *values, *bias):
            grad.zero_()
        return query, keys, values, bias
    passes = Backward(unit_last_stride(grad_out), grad_lse, call, unit_last_stride(out), lse, device)
    if needs[0]:
        passes.query(query)
    if needs[1] or needs[2]:
        passes.keys(keys, values)
    if needs[3]:
        for part, grad in enumerate(bias):
            passes.bias(part, grad)
    return query, keys, values, bias


class Backward:
    """The passes of one backward; statistics of rows are made first."""

    def __init__(
        self, grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, device: Device
    ) -> None:
        self.call, self.device, self.packed = call, device, call.cu_seqlens_q is not None
        self.found = calls.described(call)
        self.width = calls.widths(call)
        self.grad_out = calls.operand(grad_out, self.packed)
        self.flags = calls.flags(call) | {"PRECISION": precision(call.query.dtype, device.arch)}
        shape = self.found.shape
        self.batches = 1 if self.packed else shape.batch
        rows = self.batches * shape.heads * shape.len_q
        self.statistics = Statistics(
            *(torch.empty(rows, dtype=torch.float32, device=call.query.device) for _ in Statistics._fields)
        )
        tile = self._tile("statistics")
        operands = self.grad_out, calls.operand(out, self.packed)
        numbers = statistics_operand(lse, self.packed), statistics_operand(grad_lse, self.packed)
        attention_delta[(-(-rows // tile.height),)](
            self.statistics, *operands, *numbers, shape, rows, DIM_V=self.width["DIM_V"],
            PADDED_V=self.width["PADDED_V"], HEIGHT=tile.height, **options_of(tile, device),
        )  # fmt: skip
        if call.bias_kind:
            tile, tiles, programs = self._row_tiles("backward_query")
            attention_far_rows[(programs,)](
                self.statistics, *self.found, tiles, DIM=self.width["DIM"], PADDED=self.width["PADDED"],
                HEIGHT=tile.height, KEYS=tile.keys, BIAS=call.bias_kind, SOFTCAP=self.flags["SOFTCAP"],
                PRECISION=self.flags["PRECISION"], **options_of(tile, device),
            )  # fmt: skip

    def query(self, grad: Tensor) -> None:
        """Writes the gradient of the query."""
        summed = not self.packed and grad.shape[0] < self.batches
        tile, tiles, programs = self._row_tiles("backward_query", 1 if summed else self.batches)
        attention_grad_query[(programs,)](
            calls.operand(grad, self.packed), self.grad_out, self.statistics, *self.found, tiles,
            self.batches if summed else 1, **self._constants(tile),
        )  # fmt: skip

    def keys(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Writes the gradients of each segment's keys and values: of both at once where they share their batch axis."""
        for segment, length in enumerate(self.found.lengths):
            key = keys[segment] if keys else None
            value = values[segment] if values else None
            if length == 0:
                continue
            # Above 128 features the registers do not hold both sums.
            narrow = max(self.width["PADDED"], self.width["PADDED_V"]) <= 128
            same = self.packed or key is None or value is None or key.shape[0] == value.shape[0]
            together = key is None or value is None or (narrow and same)
            for pair in [(key, value)] if together else [(key, None), (None, value)]:
                self._keys_of_segment(segment, length, *pair)

    def _keys_of_segment(self, segment: int, length: int, key: Tensor | None, value: Tensor | None) -> None:
        grads = tuple(
            Operand(None, 0, 0, 0) if grad is None else calls.operand(grad, self.packed) for grad in (key, value)
        )
        tile = self._tile("backward_keys")
        shape = self.found.shape
        entries = next(grad.shape[0] for grad in (key, value) if grad is not None)
        if self.packed:
            tiles, programs, batches = -(-length // tile.keys) + shape.batch, 1, 1
        else:
            tiles, programs = -(-length // tile.keys), entries
            batches = self.batches if entries < self.batches else 1
        attention_grad_keys[(programs * tiles * (shape.heads // shape.group),)](
            *grads, self.grad_out, self.statistics, *self.found, segment, tiles, batches, **self._constants(tile)
        )

    def bias(self, part: int, grad: Tensor) -> None:
        """Writes the gradient of a part of the bias."""
        kind = self.call.bias_kind
        batches, heads, rows, entries = (1, grad.shape[0], 1, grad.shape[1]) if kind == BIAS_RELATIVE else grad.shape
        tile = self._tile("backward_bias")
        keyed = kind == BIAS_DENSE and entries > 1
        blocks = calls.total_chunks(self.found.lengths, tile.keys)
        windows = blocks if keyed and not self.packed else -(-entries // tile.keys)
        tiles = -(-rows // tile.height)
        constants = {name: value for name, value in self._constants(tile).items() if name != "FOLDED"}
        attention_grad_bias[(batches * heads * tiles * windows,)](
            grad, self.grad_out, self.statistics, *self.found, batches, heads, tiles, windows, blocks, entries, rows,
            **constants, PART=part, KEYED=keyed, SUMS_ROWS=rows == 1,
        )  # fmt: skip

    def _tile(self, op: str) -> tables.Tile:
        width = max(self.width["PADDED"], self.width["PADDED_V"])
        return tables.tile(self.device.arch, op, self.call.query.dtype, width, size_of(self.call))

    def _row_tiles(self, op: str, batches: int | None = None) -> tuple[tables.Tile, int, int]:
        """The tile of an op that owns rows, the number of tiles of a head, and the programs."""
        tile, shape = self._tile(op), self.found.shape
        tiles = -(-shape.len_q // tile.height) + (shape.batch if self.packed else 0)
        return tile, tiles, tiles * shape.heads * (self.batches if batches is None else batches)

    def _constants(self, tile: tables.Tile) -> dict[str, Any]:
        return self.width | self.flags | {"HEIGHT": tile.height, "KEYS": tile.keys} | options_of(tile, self.device)
