"""State spaces. Every access is checked for bounds and alignment; shared memory starts as NaN.

Addresses are what catches mistakes here, so they are far apart: each global allocation has a window of 64 GiB to
itself, the first ones stand for shared, local and parameter memory in the generic space. A generic pointer to shared
memory cut to 32 bits does not point into shared memory, and a shared address of 0 is outside of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .kinds import PtxError

WINDOW_BITS = 36
SHARED_BEGIN = 0x400
# where the windows begin that generic addresses of these spaces fall into
GENERIC = {name: (k << WINDOW_BITS) + 0x4000_0000 for k, name in ((1, "shared"), (2, "local"), (3, "param"))}
_FIRST_ALLOCATION = 16
POISON = 0xFF  # repeated, a NaN in every floating type
_WARP = 32
_PUBLISHED = 255  # in place of a writer

Where = np.ndarray | bool


class AccessError(PtxError):
    def __init__(self, text: str, lane: int) -> None:
        super().__init__(text)
        self.lane = lane


class Region:
    """Bytes at consecutive addresses from `begin`; with `origin`, a copy of them for each lane or block.

    `origin` holds for each lane where its copy starts in `data`, a multiple of 16. The first `lead` bytes are not its
    own: they are there so that `begin` is a multiple of 16. `unfenced` holds for each byte the `writer` (not 0) that
    wrote it, until a fence.proxy.async.
    """

    def __init__(
        self,
        name: str,
        data: np.ndarray,
        begin: int,
        size: int,
        origin: np.ndarray | None = None,
        writable: bool = True,
        lead: int = 0,
    ) -> None:
        self.name, self.data, self.begin, self.size = name, data, begin, size
        self.origin, self.writable, self.lead = origin, writable, lead
        self.unfenced: np.ndarray | None = None
        self.writer = 0
        self._views: dict[tuple[np.dtype, int], np.ndarray] = {}

    def view(self, dtype: np.dtype, count: int) -> np.ndarray:
        """The bytes as rows of `count` elements (or, for one element a row, as a vector)."""
        if (dtype, count) not in self._views:
            row = dtype.itemsize * count
            rows = self.data[: self.data.size // row * row].view(dtype)
            self._views[dtype, count] = rows.reshape(-1, count) if count > 1 else rows
        return self._views[dtype, count]

    def offsets(self, address: np.ndarray, size: int, where: Where) -> np.ndarray:
        """Checked byte offsets from `begin`; 0 in lanes that do not take part."""
        offset = address - address.dtype.type(self.begin)  # wraps: what lies below becomes very large
        if where is not True:
            offset = np.where(where, offset, address.dtype.type(0))
        if np.maximum.reduce(offset) > self.size - size or np.bitwise_or.reduce(offset) & (size - 1):
            self._refuse(address, offset, size)
        if self.lead and ((offset < self.lead) & where).any():
            self._refuse(address, np.where(offset < self.lead, self.size, offset), size)
        return offset

    def rows(self, address: np.ndarray, size: int, where: Where) -> np.ndarray:
        """For each lane the row of `view` that starts at its address."""
        offset = self.offsets(address, size, where).astype(np.int64)
        if self.origin is not None:
            offset += self.origin
        return offset >> (size.bit_length() - 1)

    def load(self, address: np.ndarray, dtype: np.dtype, count: int, where: Where) -> np.ndarray:
        return self.view(dtype, count).take(self.rows(address, dtype.itemsize * count, where), axis=0)

    def store(self, address: np.ndarray, values: np.ndarray, count: int, where: Where) -> None:
        if not self.writable:
            raise PtxError(f"store to {self.name}, which is read-only")
        rows = self.rows(address, values.dtype.itemsize * count, where)
        view = self.view(values.dtype, count)
        if where is True:
            view[rows] = values
        else:
            view[rows[where]] = values[where]
        if self.unfenced is not None:
            self.mark(rows if where is True else rows[where], values.dtype.itemsize * count)

    # ---- the asynchronous proxy: shared memory, in kernels that have its instructions ----

    def mark(self, rows: np.ndarray, size: int) -> None:
        """Rows of `size` bytes were written, and the asynchronous proxy does not know of it."""
        assert self.unfenced is not None
        self.unfenced[: self.unfenced.size // size * size].reshape(-1, size)[rows] = self.writer

    def publish(self, block: int) -> None:
        """What this warp wrote in a block is known to all of its warps: a fence of any of them will do."""
        for marks in self._marks(np.arange(block * _WARP, block * _WARP + 1)):
            marks[marks == self.writer] = _PUBLISHED

    def fence(self, where: Where) -> None:
        """The asynchronous proxy knows what this warp wrote, and what was published, in the blocks of `where`."""
        for marks in self._marks(where):
            marks[(marks == self.writer) | (marks == _PUBLISHED)] = 0

    def _marks(self, where: Where) -> Iterator[np.ndarray]:
        """Of the blocks of some lanes."""
        if self.unfenced is not None and self.origin is not None:
            for begin in np.unique(self.origin[where]):
                yield self.unfenced[begin : begin + self.size]

    def _refuse(self, address: np.ndarray, offset: np.ndarray, size: int) -> None:
        outside = offset.astype(np.uint64) > np.uint64(max(self.size - size, 0))
        if self.size < size:
            outside[:] = True
        misaligned = (offset & offset.dtype.type(size - 1)) != 0
        lane = int(np.argmax(misaligned if misaligned.any() else outside))
        at = f"{size} bytes at byte {int(address[lane]) - self.begin - self.lead} of {self.name}"
        at += f" ({self.size - self.lead} bytes)"
        raise AccessError(f"{'misaligned' if misaligned.any() else 'out of bounds'}: {at}", lane)


@dataclass
class Allocation:
    array: np.ndarray
    region: Region


class Memory:
    """Global memory: numpy arrays, used in place. A read-only array refuses stores."""

    def __init__(self) -> None:
        self._allocations: list[Allocation] = []
        self._placed: dict[int, Region] = {}  # by window

    def register(self, array: np.ndarray, name: str | None = None) -> np.uint64:
        """The device address of a contiguous array; the same array has the same address again."""
        if not array.flags.c_contiguous:
            raise ValueError("only a contiguous array can be registered")
        for known in self._allocations:
            same = known.array.ctypes.data == array.ctypes.data and known.array.nbytes == array.nbytes
            if same and array.nbytes:
                return np.uint64(known.region.begin)
        index = len(self._allocations)
        begin = (_FIRST_ALLOCATION + index) << WINDOW_BITS
        flat = array.reshape(-1).view(np.uint8)
        name = name or f"global array {index} {array.dtype}{list(array.shape)}"
        region = Region(name, flat, begin, array.nbytes, writable=array.flags.writeable)
        self._allocations.append(Allocation(array, region))
        return np.uint64(begin)

    def place(self, address: int, data: np.ndarray, name: str, lead: int = 0) -> None:
        """Bytes, used in place, at an address of the caller's choosing, in windows where nothing else is.

        `address` is that of data[lead], and data[0] stands at a multiple of 16.
        """
        region = Region(name, data, address - lead, data.size, writable=data.flags.writeable, lead=lead)
        for window in range(region.begin >> WINDOW_BITS, (address + data.size - 1 >> WINDOW_BITS) + 1):
            self._placed[window] = region

    def clear_placed(self) -> None:
        """Forgets what was placed."""
        self._placed.clear()

    def region(self, address: int, lane: int) -> Region:
        if (placed := self._placed.get(address >> WINDOW_BITS)) is not None:
            return placed
        index = (address >> WINDOW_BITS) - _FIRST_ALLOCATION
        if not 0 <= index < len(self._allocations):
            raise AccessError(f"out of bounds: address {address:#x} is in no global array", lane)
        return self._allocations[index].region


class Space:
    """Addresses that may fall into any of several regions: global and generic memory."""

    def __init__(self, memory: Memory, windows: dict[int, Region]) -> None:
        self.memory, self.windows = memory, windows

    def region(self, address: int, lane: int) -> Region:
        window = self.windows.get(address >> WINDOW_BITS)
        return window if window is not None else self.memory.region(address, lane)

    def parts(self, address: np.ndarray, where: Where) -> list[tuple[Region, Where]]:
        """The regions that the lanes name and the lanes that name each."""
        first = 0 if where is True else int(np.argmax(where))
        keys = address >> np.uint64(WINDOW_BITS)
        mine = keys == keys[first]
        if mine.all() or (where is not True and not (where & ~mine).any()):
            return [(self.region(int(address[first]), first), where)]
        parts: list[tuple[Region, Where]] = []
        for key in np.unique(keys if where is True else keys[where]):
            lanes = (keys == key) & where
            lane = int(np.argmax(lanes))
            parts.append((self.region(int(address[lane]), lane), lanes))
        return parts

    def load(self, address: np.ndarray, dtype: np.dtype, count: int, where: Where) -> np.ndarray:
        parts = self.parts(address, where)
        if len(parts) == 1:
            region, lanes = parts[0]
            return region.load(address, dtype, count, lanes)
        result = np.zeros((len(address), count) if count > 1 else len(address), dtype)
        for region, lanes in parts:
            result[lanes] = region.load(address, dtype, count, lanes)[lanes]
        return result

    def store(self, address: np.ndarray, values: np.ndarray, count: int, where: Where) -> None:
        for region, lanes in self.parts(address, where):
            region.store(address, values, count, lanes)
