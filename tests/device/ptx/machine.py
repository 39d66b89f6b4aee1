"""A grid: blocks in random order, a chunk of them at a time, and within a chunk the warps in random order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .barriers import Barriers
from .gang import WARP, Gang
from .kinds import PtxError
from .lower import Kernel
from .memory import GENERIC, POISON, SHARED_BEGIN, WINDOW_BITS, Memory, Region, Space
from .operands import Variable
from .registers import shared_address

Dim = tuple[int, int, int]
LANES_OF_A_GANG = 512  # more cost memory and save no time
LONGEST_SLICE = 100_000  # a warp that waits in a loop for another one is interrupted


@dataclass
class Launch:
    kernel: Kernel
    memory: Memory
    variables: dict[str, int]  # addresses of the module's .global and .const variables
    grid: Dim
    block: Dim
    dynamic_shared: int
    parameters: np.ndarray  # bytes
    rng: np.random.Generator
    limit: int  # of instructions of a warp


@dataclass
class Report:
    instructions: int = 0  # executed by gangs: numpy calls, about
    thread_instructions: int = 0


def run(launch: Launch) -> Report:
    blocks = launch.rng.permutation(int(np.prod(launch.grid)))
    together = max(1, LANES_OF_A_GANG // WARP)
    report = Report()
    with np.errstate(all="ignore"):
        for begin in range(0, len(blocks), together):
            chunk = Chunk(launch, blocks[begin : begin + together])
            chunk.run()
            report.instructions += sum(gang.executed for gang in chunk.gangs)
            report.thread_instructions += sum(gang.thread_instructions for gang in chunk.gangs)
    return report


class Chunk:
    """Blocks that run together: gang w is warp w of all of them."""

    def __init__(self, launch: Launch, blocks: np.ndarray) -> None:
        self.launch, self.kernel, self.blocks = launch, launch.kernel, blocks
        self.rng = launch.rng
        self.threads = int(np.prod(launch.block))
        self.warps = -(-self.threads // WARP)
        dynamic = self.address_of(Variable("", "shared", 0, 0, 16)) - SHARED_BEGIN
        self.shared_bytes = dynamic + launch.dynamic_shared if launch.dynamic_shared else self.kernel.shared_bytes
        self._stride = -(-self.shared_bytes // 16) * 16
        self._shared = np.full(self._stride * len(blocks), POISON, np.uint8)
        asynchronous = any(each.name == "wgmma" for each in self.kernel.instructions)
        self._unfenced = np.zeros(self._shared.size, np.uint8) if asynchronous else None
        self.barriers = Barriers(self.warps)
        self.gangs = [Gang(self, warp) for warp in range(self.warps)]

    def run(self) -> None:
        while True:
            alive = [gang for gang in self.gangs if gang.live.any()]
            if not alive:
                return
            before = sum(gang.executed for gang in alive)
            for k in self.rng.permutation(len(alive)):
                gang = alive[k]
                gang.advance(LONGEST_SLICE if self.rng.random() < 0.5 else int(self.rng.integers(1, 500)))
                gang.copies.land_some(self.rng)
                gang.products.land_some(self.rng)
                if gang.executed > self.launch.limit:
                    raise PtxError(f"{self.kernel.name} does not end:\n{gang.waiting()}")
            if sum(gang.executed for gang in alive) == before:
                waiting = "\n".join(gang.waiting() for gang in self.gangs)
                raise PtxError(f"{self.kernel.name} is in a deadlock:\n{waiting}{self.barriers.report()}")

    # ---- what a gang is made with ----

    def _threads(self, warp: int) -> np.ndarray:
        return np.tile(np.arange(WARP) + WARP * warp, len(self.blocks))

    def existing_lanes(self, warp: int) -> np.ndarray:
        return self._threads(warp) < self.threads

    def special_registers(self, warp: int) -> dict[str, np.ndarray]:
        grid, block = self.launch.grid, self.launch.block
        thread, ctaid, lane = self._threads(warp), np.repeat(self.blocks, WARP), self._threads(0)
        values: dict[str, np.ndarray | int] = {"%laneid": lane, "%warpid": warp, "%nwarpid": self.warps}
        for k, axis in enumerate("xyz"):
            below, below_grid = int(np.prod(block[:k])), int(np.prod(grid[:k]))
            values[f"%tid.{axis}"] = thread // below % block[k]
            values[f"%ntid.{axis}"] = block[k]
            values[f"%ctaid.{axis}"] = ctaid // below_grid % grid[k]
            values[f"%nctaid.{axis}"] = grid[k]
        one = np.int64(1) << lane
        masks = {"eq": one, "lt": one - 1, "le": 2 * one - 1, "gt": -2 * one, "ge": -one}
        values |= {f"%lanemask_{name}": mask for name, mask in masks.items()}
        values |= {"%dynamic_smem_size": self.launch.dynamic_shared, "%total_smem_size": self.shared_bytes}
        return {name: np.broadcast_to(value, len(thread)).astype(np.uint32) for name, value in values.items()}

    def spaces(self, warp: int, lanes: int) -> dict[str, Region | Space]:
        frame = -(-self.kernel.frame_bytes // 16) * 16
        local = np.full(frame * lanes, POISON, np.uint8)
        blocks = np.arange(lanes) // WARP * self._stride
        threads = np.arange(lanes) * frame
        parameters = self.launch.parameters
        sizes = {"shared": self.shared_bytes, "local": self.kernel.frame_bytes, "param": parameters.size}

        def region(name: str, data: np.ndarray, begin: int, origin: np.ndarray | None, writable: bool = True) -> Region:
            title = {"shared": "shared memory", "local": "local memory", "param": "the parameters"}[name]
            found = Region(title, data, begin, sizes[name], origin, writable)
            if name == "shared":
                found.unfenced, found.writer = self._unfenced, warp + 1
            return found

        windows = {
            GENERIC["shared"] >> WINDOW_BITS: region("shared", self._shared, GENERIC["shared"] + SHARED_BEGIN, blocks),
            GENERIC["local"] >> WINDOW_BITS: region("local", local, GENERIC["local"], threads),
            GENERIC["param"] >> WINDOW_BITS: region("param", parameters, GENERIC["param"], None, False),
        }
        everywhere = Space(self.launch.memory, {})
        return {
            "shared": region("shared", self._shared, SHARED_BEGIN, blocks),
            "local": region("local", local, 0, threads),
            "param": region("param", parameters, 0, None, False),
            "global": everywhere,
            "const": everywhere,
            "generic": Space(self.launch.memory, windows),
        }

    def address_of(self, variable: Variable) -> int:
        if variable.space in {"global", "const"}:
            return self.launch.variables[variable.name]
        if variable.space == "shared":
            return shared_address(variable, self.kernel.shared_bytes)
        return variable.offset

    def thread_name(self, warp: int, lane: int) -> str:
        grid, thread = self.launch.grid, WARP * warp + lane % WARP
        block = int(self.blocks[lane // WARP])
        place = (block % grid[0], block // grid[0] % grid[1], block // grid[0] // grid[1])
        return f"thread {thread} of block {place}"
