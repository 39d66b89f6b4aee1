"""A gang: the same warp of several blocks, executed lane by lane in one numpy array.

Blocks do not depend on each other, so their warps share the cost of a numpy call. Inside a gang every lane has its own
place in the program. While all agree there is one (`pc`); when a branch splits them there is one for each lane (`pcs`),
and the lanes furthest behind go first, which brings them together again where paths meet.

An instruction that a warp executes together (shfl, mma, bar.sync) parks lanes until the lanes it names have all come.
Lanes that wait for a barrier of the block are stalled until the machine releases them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .async_copies import AsyncCopies
from .async_products import AsyncProducts
from .instructions import bind, bind_control, is_control
from .kinds import PtxError
from .memory import AccessError, Region, Space, Where
from .registers import Registers

if TYPE_CHECKING:
    from .machine import Chunk
    from .operands import Instruction

Step = Callable[[Where], None]
WARP = 32


class Apart(Exception):
    """Lanes in `waiting` came to an instruction that other lanes of their warp have to execute with them."""

    def __init__(self, waiting: np.ndarray) -> None:
        self.waiting = waiting


class Gang:
    def __init__(self, chunk: Chunk, warp: int) -> None:
        self.chunk, self.warp = chunk, warp
        self.program = chunk.kernel.instructions
        self.exists = chunk.existing_lanes(warp)
        self.lanes = len(self.exists)
        self.registers = Registers(self.lanes, chunk.special_registers(warp), chunk.address_of)
        self.spaces = chunk.spaces(warp, self.lanes)
        shared, everywhere = self.spaces["shared"], self.spaces["global"]
        assert isinstance(shared, Region) and isinstance(everywhere, Space)
        self.shared = shared
        self.copies = AsyncCopies(self.lanes, shared, everywhere)
        self.products = AsyncProducts(self.lanes, shared)
        self.rng = chunk.rng
        self.live = self.exists.copy()
        self.pc = 0
        self.pcs: np.ndarray | None = None
        self.parked = np.zeros(self.lanes, bool)
        self.stalled = np.zeros(self.lanes, bool)
        self.executed = self.thread_instructions = 0
        self._runs: dict[int, list[Step]] = {}
        self._steps: dict[int, Step] = {}

    # ---- binding ----

    def _bound(self, pc: int) -> Step:
        if pc not in self._steps:
            instruction = self.program[pc]
            try:
                control = is_control(instruction)
                self._steps[pc] = bind_control(self, instruction, pc) if control else self._guarded(instruction)
            except (PtxError, ValueError, IndexError) as error:
                raise self.located(error, pc) from error
        return self._steps[pc]

    def _guarded(self, instruction: Instruction) -> Step:
        if instruction.guard is None:
            return bind(self, instruction)
        guard = self.registers.predicate(instruction.guard)
        step = bind(self, instruction)

        def guarded(where: Where) -> None:
            lanes = guard() & where
            if lanes.any():
                step(True if where is True and lanes.all() else lanes)

        return guarded

    def _run(self, pc: int) -> list[Step]:
        """The steps from `pc` to the next instruction that may jump or stop."""
        run = []
        while pc < len(self.program) and not is_control(self.program[pc]):
            run.append(self._bound(pc))
            pc += 1
        return run

    # ---- executing ----

    def advance(self, budget: int) -> None:
        """Executes until nothing can go on or about `budget` instructions are done."""
        done = 0
        while done < budget and (front := self._front()) is not None:
            done += self._execute(*front, budget - done)

    def _front(self) -> tuple[int, Where, int] | None:
        """Who goes next: where, which lanes, and how many instructions until they may meet others."""
        self._converge()
        if self.pcs is None:
            if not self.live.any():
                return None
            return self.pc, True if self.live.all() else self.live.copy(), len(self.program)
        ready = self.live & ~self.stalled
        moving = ready & ~self.parked
        if not moving.any():
            return None
        pc = int(self.pcs[moving].min())
        ahead = self.pcs[ready & (self.pcs > pc)]
        return pc, ready & (self.pcs == pc), int(ahead.min()) - pc if ahead.size else len(self.program)

    def _converge(self) -> None:
        if self.pcs is None or self.stalled.any() or not (moving := self.live & ~self.parked).any():
            return
        places = self.pcs[self.live]
        if (places == places[0]).all() and moving.any():
            self.pc, self.pcs = int(places[0]), None
            self.parked[:] = False

    def _execute(self, pc: int, where: Where, limit: int, budget: int) -> int:
        if pc >= len(self.program):
            raise PtxError(f"{self.chunk.kernel.name}: the program ends without ret")
        if pc not in self._runs:
            self._runs[pc] = self._run(pc)
        run, limit = self._runs[pc], min(limit, budget)
        cut = len(run) >= limit
        at, done = pc, limit if cut else len(run) + 1
        try:
            for at, step in enumerate(run[:limit] if len(run) > limit else run, pc):  # noqa: B007
                step(where)
            at = pc + min(len(run), limit)
            if cut:
                self.go(where, at)
            else:
                self._bound(at)(where)
            self.parked &= ~np.asarray(where)
        except Apart as apart:
            self._separate(at, where, apart.waiting)
            done = at - pc + 1
        except (PtxError, ValueError, IndexError, FloatingPointError) as error:
            raise self.located(error, at) from error
        self.executed += done
        self.thread_instructions += done * (self.lanes if where is True else int(np.count_nonzero(where)))
        return done

    def _separate(self, pc: int, where: Where, waiting: np.ndarray) -> None:
        """Parks the lanes whose warp is not together yet; the others execute the instruction."""
        self.spread(pc, where)
        others = where & ~waiting
        self.parked[waiting] = True
        self.parked[others] = False
        if others.any():
            self._bound(pc)(others)
            if not is_control(self.program[pc]):
                self.go(others, pc + 1)

    # ---- moving: what control instructions call ----

    def spread(self, pc: int, where: Where) -> np.ndarray:
        """From one place for all to a place for each lane; `where` are at `pc`."""
        if self.pcs is None:
            self.pcs = np.full(self.lanes, pc)
        else:
            self.pcs[where] = pc
        return self.pcs

    def go(self, where: Where, target: int) -> None:
        if self.pcs is None:
            self.pc = target
        else:
            self.pcs[where] = target

    def fork(self, pc: int, where: Where, taken: np.ndarray, target: int | np.ndarray) -> None:
        """Lanes in `taken` go to `target`, the others of `where` to the next instruction."""
        pcs = self.spread(pc + 1, where)
        pcs[taken] = target if isinstance(target, int) else target[taken]

    def leave(self, pc: int, where: Where, leaving: Where) -> None:
        """Lanes in `leaving` exit."""
        self.live &= ~np.broadcast_to(leaving, self.lanes)
        self.go(where, pc + 1)

    def stall(self, pc: int, where: Where, waiting: np.ndarray) -> None:
        """Lanes in `waiting` stay until their block's barrier is complete; the others of `where` go on."""
        pcs = self.spread(pc, where)
        pcs[where & ~waiting] = pc + 1
        self.stalled |= waiting

    def release(self, block: int) -> None:
        """The block's barrier is complete."""
        lanes = slice(block * WARP, (block + 1) * WARP)
        assert self.pcs is not None
        self.pcs[lanes] += self.stalled[lanes]
        self.stalled[lanes] = False

    # ---- the warp ----

    def warps(self, lanes: Where) -> np.ndarray:
        return np.broadcast_to(lanes, self.lanes).reshape(-1, WARP)

    def together(self, where: Where, members: np.ndarray | None = None) -> None:
        """Sees that in every warp of `where` all of `members` are there that have not exited.

        None stands for an aligned instruction: the whole warp, of which nobody may have exited.
        """
        if where is True:
            return
        here, live = self.warps(where), self.warps(self.live)
        active = here.any(1, keepdims=True)
        if members is None:
            gone = self.warps(self.exists) & ~live & active
            if gone.any():
                raise AccessError("a whole warp has to execute this, and lanes of it have exited", int(np.argmax(gone)))
        needed = live if members is None else members & live
        apart = (needed & ~here).any(1, keepdims=True) & active
        if apart.any():
            raise Apart((here & apart).ravel())

    # ---- reporting ----

    def located(self, error: Exception, pc: int) -> PtxError:
        if getattr(error, "is_located", False):
            assert isinstance(error, PtxError)
            return error
        instruction = self.program[pc]
        who = self.chunk.thread_name(self.warp, error.lane) if isinstance(error, AccessError) else f"warp {self.warp}"
        located = PtxError(f"{error} ({self.chunk.kernel.name}, {who}, line {instruction.line}: {instruction.text})")
        located.is_located = True  # type: ignore[attr-defined]
        return located

    def waiting(self) -> str:
        """Where its lanes stand, for a report of a deadlock."""
        places = self.pcs if self.pcs is not None else np.full(self.lanes, self.pc)
        lines = []
        for pc in np.unique(places[self.live]):
            here, instruction = self.live & (places == pc), self.program[min(int(pc), len(self.program) - 1)]
            lines.append(f"warp {self.warp}: {here.sum()} threads at line {instruction.line}: {instruction.text}")
        exited = int((self.exists & ~self.live).sum())
        return "\n".join(lines + ([f"warp {self.warp}: {exited} threads have exited"] if exited else []))
