"""Launches the Triton kernels of attention: allocates what they write, chooses tiles, reads no value of a tensor."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkernels.layout import empty_like_query
from mmkernels.ops.attention.lowered import Lowered, empty_lse
from mmkernels.ops.attention.triton_kernels import call as calls
from mmkernels.ops.attention.triton_kernels import tables
from mmkernels.ops.attention.triton_kernels.call import Operand
from mmkernels.ops.attention.triton_kernels.forward import States, attention_forward, attention_merge

FEW_ROWS = 64
"""So many query rows of a head (packed sequences: on average) share their tiles with the other heads of a group."""


class Device(NamedTuple):
    """What launches depend on beside the call."""

    arch: str
    """A name of `tables`."""
    processors: int
    """Programs that run at once: with fewer of them, chunks of keys get programs of their own."""


@functools.cache
def device_of(device: torch.device) -> Device:
    """The properties of a GPU."""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return Device(tables.known(properties.gcnArchName.partition(":")[0]), properties.multi_processor_count)
    return Device(tables.known(f"sm_{properties.major}{properties.minor}"), properties.multi_processor_count)


def precision(dtype: torch.dtype, arch: str) -> str:
    """How fp32 operands are multiplied: exactly, unless torch was told that TF32 will do."""
    allowed = dtype == torch.float32 and arch.startswith("sm_") and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"


def options(arch: str, tile: tables.Tile) -> dict[str, Any]:
    """Of the compiler. Products and sums are fused only where the kernels say so."""
    chosen = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": False}
    # One matrix instruction for tiles of any height: a row's bits must not depend on its tile.
    return chosen | ({"matrix_instr_nonkdim": 16} if arch.startswith("gfx") else {})


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
    tile = tables.tile(device.arch, op, call.query.dtype, width, few)
    pack = shape.group if few else 1
    tiles = -(-shape.len_q * pack // tile.height) + (shape.batch if packed else 0)
    programs = tiles * (shape.heads // pack) * (1 if packed else shape.batch)
    chunks = calls.total_chunks(described.lengths, tile.chunk)
    # The host does not know the longest packed sequence, which decides how many chunks there are.
    splits = chunks if op == "forward" and chunks > 1 and not packed and programs < device.processors else 1
    return Plan(tile, pack, tiles, programs, chunks, splits)


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
        PRECISION=precision(query.dtype, device.arch), **options(device.arch, tile),
    )  # fmt: skip
    if plan.splits > 1:
        attention_merge[(plan.programs,)](
            *results, states, found.shape, found.dropout, *grid, DIM_V=width["DIM_V"], PADDED_V=width["PADDED_V"],
            **shared, **options(device.arch, tile),
        )  # fmt: skip
    return out, lse


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
