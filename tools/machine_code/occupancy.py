"""How many blocks of a kernel fit a multiprocessor: the arithmetic of NVIDIA's occupancy calculator.

The limits are those of the CUDA C++ Programming Guide, "Compute Capabilities", table of technical specifications; the
grains of allocation are those of cuda_occupancy.h of the CUDA toolkit. All architectures here have 64 Ki registers in
four partitions, give them out to warps 256 at a time and shared memory to blocks 128 bytes at a time, and keep 1 KiB of
shared memory a block for themselves. Its limit on named barriers, which binds only small blocks of many, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
WARP = 32
REGISTERS = 64 * KIB
PARTITIONS = 4
REGISTER_GRAIN = 256
SHARED_GRAIN = 128
SHARED_RESERVED = KIB
MOST_REGISTERS = 255
MOST_THREADS = 1024


@dataclass(frozen=True)
class Limits:
    """What one multiprocessor holds."""

    warps: int
    blocks: int
    shared: int
    """Bytes of shared memory of all resident blocks; one block may have 1 KiB less."""


LIMITS = {
    80: Limits(warps=64, blocks=32, shared=164 * KIB),
    86: Limits(warps=48, blocks=16, shared=100 * KIB),
    89: Limits(warps=48, blocks=24, shared=100 * KIB),
    90: Limits(warps=64, blocks=32, shared=228 * KIB),
    100: Limits(warps=64, blocks=32, shared=228 * KIB),
    120: Limits(warps=48, blocks=24, shared=100 * KIB),
}


@dataclass(frozen=True)
class Occupancy:
    """Resident blocks and warps of a multiprocessor, and what keeps them from being more."""

    blocks: int
    warps: int
    share: float
    limited_by: str


def occupancy(arch: int, threads: int, registers: int, shared: int) -> Occupancy:
    """Of blocks of `threads` threads with `registers` registers each and `shared` bytes, static and dynamic; 0 blocks
    where the kernel cannot be launched."""
    limits = LIMITS[arch]
    warps = _divide_up(threads, WARP)
    fits = {
        "blocks": limits.blocks,
        "warps": limits.warps // warps if threads <= MOST_THREADS else 0,
        "registers": _by_registers(warps, registers),
        "shared memory": _by_shared(limits, shared),
    }
    reason = min(fits, key=lambda name: fits[name])
    blocks = fits[reason]
    return Occupancy(blocks, blocks * warps, round(blocks * warps / limits.warps, 4), reason)


def _by_registers(warps: int, registers: int) -> int:
    warp = max(REGISTER_GRAIN, _divide_up(registers * WARP, REGISTER_GRAIN) * REGISTER_GRAIN)
    # A block is checked as if it had the same number of warps in each partition.
    if registers > MOST_REGISTERS or warp * _divide_up(warps, PARTITIONS) * PARTITIONS > REGISTERS:
        return 0
    return REGISTERS // PARTITIONS // warp * PARTITIONS // warps


def _by_shared(limits: Limits, shared: int) -> int:
    block = _divide_up(shared + SHARED_RESERVED, SHARED_GRAIN) * SHARED_GRAIN
    return limits.shared // block


def _divide_up(a: int, b: int) -> int:
    return -(-a // b)
