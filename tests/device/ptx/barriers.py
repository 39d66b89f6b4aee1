"""The barriers of the blocks that run together, counted in warps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .kinds import PtxError
from .registers import Put

if TYPE_CHECKING:
    from .gang import Gang

_WARP = 32
Reduction = tuple[str, np.ndarray, Put]  # popc, and, or; this warp's predicates; where the result goes


@dataclass
class Barrier:
    expected: int
    arrived: int = 0
    came: list[Gang] = field(default_factory=list)
    waiting: list[Gang] = field(default_factory=list)
    reductions: list[tuple[Gang, Reduction]] = field(default_factory=list)


class Barriers:
    def __init__(self, warps: int) -> None:
        self.warps = warps
        self._open: dict[tuple[int, int], Barrier] = {}

    def arrive(
        self, gang: Gang, block: int, name: int, threads: int | None, waits: bool, reduction: Reduction | None
    ) -> None:
        """A warp comes to barrier `name` of its block, of which `threads` (None: all of the block) are expected."""
        if not 0 <= name < 16:
            raise PtxError(f"there is no barrier {name}")
        if threads is not None and (threads % _WARP or not 0 < threads <= _WARP * self.warps):
            raise PtxError(f"a barrier of {threads} threads in a block of {self.warps} warps")
        expected = self.warps if threads is None else threads // _WARP
        barrier = self._open.setdefault((block, name), Barrier(expected))
        if barrier.expected != expected:
            raise PtxError(f"barrier {name} expects {barrier.expected} warps, and this one says {expected}")
        barrier.arrived += 1
        barrier.came.append(gang)
        if waits:
            barrier.waiting.append(gang)
        if reduction is not None:
            barrier.reductions.append((gang, reduction))
        if barrier.arrived == expected:
            del self._open[block, name]
            self._complete(barrier, block)

    def _complete(self, barrier: Barrier, block: int) -> None:
        for gang, (kind, _, put) in barrier.reductions:
            votes = np.concatenate([each[1] for _, each in barrier.reductions])
            result = np.uint32(votes.sum()) if kind == "popc" else votes.all() if kind == "and" else votes.any()
            lanes = np.arange(gang.lanes) // _WARP == block
            put(np.full(gang.lanes, result), lanes & gang.live)
        for gang in barrier.came:
            gang.shared.publish(block)
        for gang in barrier.waiting:
            gang.release(block)

    def report(self) -> str:
        return "".join(
            f"\nblock {block} of those that run together: barrier {name} has {each.arrived} of {each.expected} warps"
            for (block, name), each in sorted(self._open.items())
        )
