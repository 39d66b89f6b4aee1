"""What hosts of Triton kernels share: the device's name in their tables of tiles, and the compiler's options."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmkernels import _triton, user_tiles

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx90a", "gfx942")
"""Those that tables of tiles have entries for."""
REGISTERS = 1 << 16
"""Of an NVIDIA processor, for the threads of all its blocks."""


class Device(NamedTuple):
    """What launches depend on beside the call."""

    arch: str
    """A name of `ARCHITECTURES`."""
    processors: int
    """Programs that run at once."""


def known(arch: str) -> str:
    """The architecture whose entries serve one: itself, or the one of its kind that asks least of a device."""
    if arch in ARCHITECTURES:
        return arch
    if not arch.startswith("sm_"):
        return "gfx90a"
    number = int(arch.removeprefix("sm_"))
    return "sm_90" if 90 < number < 100 else "sm_100" if 100 < number < 120 else "sm_80" if number == 87 else "sm_120"


@user_tiles.cached
def entries(op: str, table: Path, arch: str) -> dict[str, Any]:
    """What an op's table of tiles has for an architecture, and over it what was tuned on this machine."""
    return user_tiles.laid_over(op, arch, shipped(table, arch))


@functools.cache
def shipped(table: Path, arch: str) -> dict[str, Any]:
    """Of a table, a JSON object by architecture: an object, or the name of another like it."""
    found = json.loads(table.read_text())[arch]
    return shipped(table, found) if isinstance(found, str) else found


@functools.cache
def device_of(device: torch.device) -> Device:
    """The properties of a GPU."""
    return Device(known(_triton.architecture(device)), torch.cuda.get_device_properties(device).multi_processor_count)


def precision(dtype: torch.dtype, arch: str) -> str:
    """How fp32 operands are multiplied: exactly, unless torch was told that TF32 will do."""
    allowed = dtype == torch.float32 and arch.startswith("sm_") and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"


def options(arch: str, warps: int, stages: int, registers: int | None = None) -> dict[str, Any]:
    """Of the compiler. Products and sums are fused only where the kernels say so.

    registers: that a thread may have, where NVIDIA's assembler left alone would spill some for a second block beside.
    """
    chosen: dict[str, Any] = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": False}
    if registers is not None and arch.startswith("sm_"):
        chosen["maxnreg"] = min(registers, REGISTERS // (32 * warps))
    # One matrix instruction for tiles of any height: a row's bits must not depend on its tile.
    return chosen | ({"matrix_instr_nonkdim": 16} if arch.startswith("gfx") else {})
