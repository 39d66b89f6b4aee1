"""wgmma: products of a warp group that were issued and have not been waited for.

Each warp makes the 16 rows of the tile that its registers hold. Operands are read at a random moment between the issue
and the wait, products of a warp in the order of their issue; until the wait the registers of the result hold NaN.
Shared memory is read through the asynchronous proxy: what a thread stored there must have been followed by that
thread's fence.proxy.async.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .kinds import PtxError
from .memory import AccessError, Region, Where

WARP = 32
SWIZZLE_BYTES = {0: 16, 3: 32, 2: 64, 1: 128}
"""Bits 62 and 63 of a matrix descriptor: the bytes of a row of its pattern."""
FIELDS = (0, 16, 32)
"""Bits where its start, leading and stride offsets begin, in units of 16 bytes."""

Operands = Callable[[np.ndarray], np.ndarray]
"""Elements in float64, read when it is called, of the warps that it is given."""


@dataclass
class Tile:
    """An operand in shared memory, where descriptors say: rows of A, or columns of B, of `depth` elements.

    `transposed`: neighbours in memory are rows, not places along the depth.
    """

    descriptors: np.ndarray  # of each lane
    rows: int
    depth: int
    itemsize: int
    transposed: bool

    def addresses(self, warps: np.ndarray, first: int = 0) -> np.ndarray:
        """(warp, row, depth) of chosen warps and the rows from `first` on."""
        words = self.descriptors.reshape(-1, WARP)[warps]
        if (words != words[:, :1]).any():
            raise AccessError("lanes of one warp have different matrix descriptors", int(warps[0]) * WARP)
        words = words[:, :1, None].astype(np.uint64)
        start, leading, stride = ((words >> np.uint64(bit) & np.uint64(0x3FFF)).astype(np.int64) << 4 for bit in FIELDS)
        mode = int(words.flat[0] >> np.uint64(62))
        if (words >> np.uint64(62) != mode).any() or (words >> np.uint64(49) & np.uint64(7)).any():
            raise PtxError("matrix descriptors with a base offset, or of several swizzles")
        row, place, wide = first + np.arange(self.rows)[:, None], np.arange(self.depth)[None, :], SWIZZLE_BYTES[mode]
        if self.transposed:
            if mode == 0:
                raise PtxError("a transposed tile without a swizzle")
            byte = row * self.itemsize
            found = start + byte % wide + byte // wide * leading + place % 8 * wide + place // 8 * stride
        else:
            byte = place * self.itemsize
            chunk = byte // 16 * (16 if mode else leading)
            found = start + row % 8 * wide + row // 8 * stride + chunk + byte % 16
        return found ^ (found >> 7 & wide // 16 - 1) << 4


@dataclass
class Product:
    """One instruction of some warps of a gang."""

    warps: np.ndarray
    groups: np.ndarray  # of each warp: how many it had committed before
    outs: list[np.ndarray]  # registers of the result
    a: Operands  # (warp, 16, depth)
    b: Operands  # (warp, depth, columns)
    adds: np.ndarray  # of each warp: whether the result is added to
    landed: np.ndarray  # of each warp: whether its operands have been read
    half: bool  # the result is fp16

    def part(self, chosen: np.ndarray) -> Product:
        """Of chosen warps."""
        parts = (part[chosen] for part in (self.warps, self.groups, self.adds, self.landed))
        warps, groups, adds, landed = parts
        return Product(warps, groups, self.outs, self.a, self.b, adds, landed, self.half)


class AsyncProducts:
    """Those of a gang."""

    def __init__(self, lanes: int, shared: Region) -> None:
        self.lanes, self.shared = lanes, shared
        self.warps = lanes // WARP
        self.committed = np.zeros(self.warps, np.int64)
        self.fenced = np.zeros(self.warps, bool)
        self.pending: list[Product] = []
        self.held: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # register, its values, lanes that wait

    def _of(self, where: Where) -> np.ndarray:
        return np.flatnonzero(np.broadcast_to(where, self.lanes).reshape(-1, WARP).any(1))

    def fence(self, where: Where) -> None:
        self.fenced[self._of(where)] = True

    def reader(self, tile: Tile, warps: np.ndarray, first: int = 0) -> Callable[[np.ndarray], np.ndarray]:
        """What reads, later, the elements (warp, row, depth) that a tile's descriptors name now, of some warps."""
        shared, size = self.shared, tile.itemsize
        offset = tile.addresses(warps, first) - shared.begin
        outside = (offset < 0) | (offset > shared.size - size)
        if outside.any():
            warp = int(warps[np.argwhere(outside)[0][0]])
            raise AccessError(f"a matrix descriptor leaves shared memory ({shared.size} bytes)", warp * WARP)
        assert shared.origin is not None
        rows = np.zeros((self.warps, *offset.shape[1:]), np.int64)
        rows[warps] = offset + shared.origin[::WARP][warps, None, None]
        if shared.unfenced is not None and (stale := shared.unfenced[rows[warps]] != 0).any():
            warp = int(warps[np.argwhere(stale)[0][0]])
            raise AccessError("a product reads what no fence.proxy.async has followed", warp * WARP)
        view = shared.view(np.dtype(f"u{size}"), 1)
        return lambda chosen: view[rows[chosen] // size]

    def issue(
        self, warps: np.ndarray, outs: list[np.ndarray], a: Operands, b: Operands, adds: np.ndarray, half: bool
    ) -> None:
        if not self.fenced[warps].all():
            raise AccessError("wgmma.mma_async before any wgmma.fence", int(warps[0]) * WARP)
        lanes = self._lanes(warps)
        for register in outs:
            fresh = (register, register.copy(), np.zeros(self.lanes, bool))
            _, values, waiting = self.held.setdefault(id(register), fresh)
            new = lanes & ~waiting
            values[new] = register[new]
            waiting[new] = True
            register[new] = 0xFFFFFFFF
        self.pending.append(Product(warps, self.committed[warps], outs, a, b, adds, np.zeros(len(warps), bool), half))

    def commit(self, where: Where) -> None:
        self.committed[self._of(where)] += 1

    def wait(self, newest: int, where: Where) -> None:
        """All but the `newest` committed groups of these warps are complete, and their results there."""
        here = np.zeros(self.warps, bool)
        here[self._of(where)] = True
        must = self.committed - newest
        done = [here[each.warps] & (each.groups < must[each.warps]) for each in self.pending]
        self._land(done)
        self.pending = [each.part(~ends) for each, ends in zip(self.pending, done) if not ends.all()]
        self._release(self._lanes(here))

    def land_some(self, rng: np.random.Generator) -> None:
        """Operands may be read at any moment."""
        if self.pending and rng.random() < 0.5:
            newest, chosen = int(rng.integers(0, len(self.pending) + 1)), rng.random(self.warps) < 0.5
            self._land([chosen[each.warps] & (k < newest) for k, each in enumerate(self.pending)])

    def _lanes(self, warps: np.ndarray) -> np.ndarray:
        lanes = np.zeros((self.warps, WARP), bool)
        lanes[warps] = True
        return lanes.ravel()

    def _land(self, chosen: list[np.ndarray]) -> None:
        for product, now in zip(self.pending, chosen):
            now = now & ~product.landed
            if now.any():
                self._multiply(product, product.warps[now], product.adds[now])
                product.landed |= now

    def _multiply(self, product: Product, warps: np.ndarray, adds: np.ndarray) -> None:
        result = product.a(warps) @ product.b(warps)
        held = [self.held[id(register)][1].reshape(-1, WARP) for register in product.outs]
        before = np.stack([values[warps] for values in held])  # register, warp, lane
        count = len(warps)
        if product.half:  # column block, half, warp, g, t, pair
            old = before.reshape(-1, 2, count, 8, 4)[..., None].view(np.float16)
            old = old.transpose(2, 1, 3, 0, 4, 5).reshape(count, 16, -1)
        else:  # column block, half, pair, warp, g, t
            old = before.view(np.float32).reshape(-1, 2, 2, count, 8, 4)
            old = old.transpose(3, 1, 4, 0, 5, 2).reshape(count, 16, -1)
        result = np.where(adds[:, None, None], result + old, result)
        if product.half:
            new = result.astype(np.float16).reshape(count, 2, 8, -1, 4, 2).transpose(3, 1, 0, 2, 4, 5)
        else:
            new = result.astype(np.float32).reshape(count, 2, 8, -1, 4, 2).transpose(3, 1, 5, 0, 2, 4)
        words = np.ascontiguousarray(new).view(np.uint32).reshape(len(held), count, WARP)
        for values, word in zip(held, words):
            values[warps] = word

    def _release(self, lanes: np.ndarray) -> None:
        """Results that no product waits for any more go to their registers."""
        nobody = np.zeros(self.lanes, bool)
        still: dict[int, np.ndarray] = {}
        for each in self.pending:
            for register in each.outs:
                still[id(register)] = still.get(id(register), nobody) | self._lanes(each.warps)
        for key, (register, values, waiting) in self.held.items():
            ready = lanes & waiting & ~still.get(key, nobody)
            register[ready] = values[ready]
            waiting[ready] = False
