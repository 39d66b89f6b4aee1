"""The figures of one kernel on one architecture, out of its code and of what ptxas says of it.

Counts of the hot loop are static: each instruction once, guarded or not. docs/kernels/machine-code.md says what follows
from that and what does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .disassemble import Resources
from .flow import LEAST_WORK, Graph, Loop, build_graph, hot_loop
from .occupancy import Occupancy, occupancy
from .sass import Instruction, Listing


@dataclass(frozen=True)
class Launch:
    """What the code alone does not say: how the host launches a kernel, and the least that it has to move."""

    threads: int | None = None
    """Of a block; None takes the kernel's `__launch_bounds__`."""
    dynamic_shared_bytes: int | None = None
    least_global_bytes_per_kflop: float | None = None
    """What the hot loop has to load, where each block reads its operands once: 1000 / query rows of a tile."""


@dataclass(frozen=True)
class Pace:
    """Instructions issued by a warp for the products of one iteration."""

    slots: int
    work: int
    share: float
    """Of the slots, those of the products: the tensor-core share."""
    slots_per_kflop: float
    """Issue slots per 1000 floating-point operations of products and warp; 0 where the shape is not known."""


@dataclass(frozen=True)
class HotLoop:
    """`whole` counts every block of the loop, `steady` those of an iteration over a full tile (flow._steady_way)."""

    address: str
    work: str
    whole: Pace
    steady: Pace
    mix: dict[str, int]
    """Instructions of the whole loop by class."""
    conditional: int
    """Guarded instructions, branches aside: whether they do anything is not known here."""
    waiting: int
    """Instructions of loops without products inside this one, counted once."""
    local_accesses: int
    bytes_moved: dict[str, int]
    """By one warp in a steady iteration, with all lanes on."""
    global_bytes_per_kflop: float
    shared_bytes_per_kflop: float
    global_bytes_over_least: float | None


@dataclass(frozen=True)
class Kernel:
    """All figures of a kernel on an architecture."""

    unit: str
    instructions: int
    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    local_accesses: int
    static_shared_bytes: int
    dynamic_shared_bytes: int | None
    threads: int | None
    occupancy: Occupancy | None
    """None without a number of threads; the most that it can be where dynamic shared memory is not known."""
    matrix_instructions: int
    hot_loop: HotLoop | None


def count_kernel(
    listing: Listing, resources: Resources, arch: int, unit: str, launch: Launch = Launch(), bound: int | None = None
) -> Kernel:
    """Figures of a kernel; `bound` is the number of threads in its launch bounds."""
    kinds = Counter(each.kind for each in listing.instructions)
    threads = launch.threads or bound
    shared = resources.static_shared_bytes + (launch.dynamic_shared_bytes or 0)
    return Kernel(
        unit=unit,
        instructions=len(listing.instructions) - kinds["nothing"],
        registers=resources.registers,
        spill_store_bytes=resources.spill_store_bytes,
        spill_load_bytes=resources.spill_load_bytes,
        local_accesses=kinds["local"],
        static_shared_bytes=resources.static_shared_bytes,
        dynamic_shared_bytes=launch.dynamic_shared_bytes,
        threads=threads,
        occupancy=occupancy(arch, threads, resources.registers, shared) if threads else None,
        matrix_instructions=kinds["matrix"],
        hot_loop=count_loop(listing, launch.least_global_bytes_per_kflop),
    )


def count_loop(listing: Listing, least: float | None = None) -> HotLoop | None:
    """The loop with most matrix instructions or, in a kernel without any, with most fp32 multiply-adds."""
    graph = build_graph(listing)
    for work in LEAST_WORK:
        if loop := hot_loop(graph, work):
            return _describe(graph, loop, work, least)
    return None


def _describe(graph: Graph, loop: Loop, work: str, least: float | None) -> HotLoop:
    whole = _code(graph, loop.own)
    steady = _code(graph, loop.way)
    moved: Counter[str] = Counter()
    for each in steady:
        if each.traffic:
            moved[each.traffic[0]] += each.traffic[1]
    kflop = sum(each.flop for each in steady if each.kind == work) / 1000
    fetched = _ratio(moved["global_to_shared"] + moved["global_load"], kflop)
    return HotLoop(
        address=f"0x{graph.blocks[loop.header][0].address:x}",
        work=work,
        whole=_pace(whole, work),
        steady=_pace(steady, work),
        mix=dict(Counter(each.kind for each in whole)),
        conditional=sum(bool(each.guard) and each.kind not in ("nothing", "control") for each in whole),
        waiting=len(_code(graph, loop.waiting)),
        local_accesses=sum(each.kind == "local" for each in whole),
        bytes_moved=dict(moved),
        global_bytes_per_kflop=fetched,
        shared_bytes_per_kflop=_ratio(moved["shared_load"] + moved["shared_store"], kflop),
        global_bytes_over_least=_ratio(fetched, least) if least else None,
    )


def _code(graph: Graph, blocks: Iterable[int]) -> list[Instruction]:
    return [each for block in sorted(blocks) for each in graph.blocks[block]]


def _pace(code: list[Instruction], work: str) -> Pace:
    products = [each for each in code if each.kind == work]
    kflop = sum(each.flop for each in products) / 1000
    return Pace(len(code), len(products), _ratio(len(products), len(code)), _ratio(len(code), kflop))


def _ratio(a: float, b: float) -> float:
    return round(a / b, 4) if b else 0.0
