"""cp.async: what was issued and has not landed.

The bytes are read and written at a random moment between the issue and the wait that orders them; until then their
place holds NaN. A copy whose thread never waits for it may never land.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .memory import AccessError, Region, Space, Where

_WORD = np.dtype(np.uint32)


@dataclass
class Copy:
    """One instruction's copies, an entry for each lane that takes part."""

    lanes: np.ndarray
    groups: np.ndarray  # of each lane: how many it had committed before
    rows: np.ndarray  # of `size` bytes in shared memory
    size: int
    source: np.ndarray
    source_bytes: np.ndarray  # of `size`; the rest is zeros

    def __getitem__(self, chosen: np.ndarray) -> Copy:
        parts = (self.lanes, self.groups, self.rows, self.source, self.source_bytes)
        lanes, groups, rows, source, source_bytes = (part[chosen] for part in parts)
        return Copy(lanes, groups, rows, self.size, source, source_bytes)


class AsyncCopies:
    def __init__(self, lanes: int, shared: Region, space: Space) -> None:
        self.lanes, self.shared, self.space = lanes, shared, space
        self.committed = np.zeros(lanes, np.int64)
        self.pending: list[Copy] = []

    def issue(self, target: np.ndarray, source: np.ndarray, size: int, source_bytes: np.ndarray, where: Where) -> None:
        rows = self.shared.rows(target, size, where)
        self._check(source, size, source_bytes, where)
        lanes = np.flatnonzero(np.broadcast_to(where, self.lanes))
        self.pending.append(
            Copy(lanes, self.committed[lanes], rows[lanes], size, source[lanes], source_bytes[lanes].astype(np.int64))
        )
        self.shared.view(_WORD, size // 4)[rows[lanes]] = 0xFFFFFFFF

    def _check(self, source: np.ndarray, size: int, source_bytes: np.ndarray, where: Where) -> None:
        over = (source_bytes > size) & where
        if over.any():
            lane = int(np.argmax(over))
            raise AccessError(f"cp.async of {source_bytes[lane]} source bytes into {size}", lane)
        reading = (source_bytes > 0) & where
        if not reading.any():
            return
        for region, lanes in self.space.parts(source, reading):
            offset = region.offsets(source, 1, lanes).astype(np.int64)
            misaligned = (offset % size != 0) & lanes
            outside = (offset + source_bytes > region.size) & lanes
            for wrong, name in ((misaligned, "misaligned"), (outside, "out of bounds")):
                if wrong.any():
                    lane = int(np.argmax(wrong))
                    at = f"{source_bytes[lane]} bytes at byte {offset[lane]} of {region.name} ({region.size} bytes)"
                    raise AccessError(f"{name}: {at}", lane)

    def commit(self, where: Where) -> None:
        self.committed += where

    def wait(self, newest: int, where: Where) -> None:
        """All but the `newest` committed groups of these lanes land."""
        must = self.committed - newest
        self._land([(copy.groups < must[copy.lanes]) & self._of(copy, where) for copy in self.pending])

    def wait_all(self, where: Where) -> None:
        self._land([self._of(copy, where) for copy in self.pending])

    def land_some(self, rng: np.random.Generator) -> None:
        """Any copy may land at any moment."""
        self._land([rng.random(len(copy.lanes)) < rng.choice([0.0, 0.3]) for copy in self.pending])

    def _of(self, copy: Copy, where: Where) -> np.ndarray:
        return np.broadcast_to(where, self.lanes)[copy.lanes]

    def _land(self, chosen: list[np.ndarray]) -> None:
        left = []
        for copy, lands in zip(self.pending, chosen):
            if lands.all():
                self._move(copy)
            elif lands.any():
                self._move(copy[lands])
                left.append(copy[~lands])
            else:
                left.append(copy)
        self.pending = left

    def _move(self, copy: Copy) -> None:
        words = copy.size // 4
        values = np.zeros((len(copy.lanes), words), np.uint32)
        whole = copy.source_bytes == copy.size
        if whole.any():
            values[whole] = self.space.load(copy.source, _WORD, words, True if whole.all() else whole).reshape(
                -1, words
            )[whole]
        for k in np.flatnonzero(~whole & (copy.source_bytes > 0)):
            region = self.space.region(int(copy.source[k]), int(copy.lanes[k]))
            begin, count = int(copy.source[k]) - region.begin, int(copy.source_bytes[k])
            values[k].view(np.uint8)[:count] = region.data[begin : begin + count]
        self.shared.view(_WORD, words)[copy.rows] = values if words > 1 else values[:, 0]
        if self.shared.unfenced is not None:
            self.shared.mark(copy.rows, copy.size)
