"""The control flow of a kernel: basic blocks, dominators, natural loops, and which loop is hot.

A back edge t -> h is an edge whose target dominates its source; the blocks that reach t without passing h, and h, are
its natural loop, and back edges to one header make one loop. ptxas moves blocks of a loop far out of line: they belong
to it all the same, which a range of addresses would not see. Dominators as in Cooper, Harvey and Kennedy, "A simple,
fast dominance algorithm".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .sass import Instruction, Listing

_PREDICATE = re.compile(r"!?U?P\d")
_BARRIER = re.compile(r"\bB\d+\b")
_JUMPS = ("BRA", "BRX", "BRXU", "JMP", "JMX")
_ENDS = ("EXIT", "RET", "KILL")
_LABEL_OF_A_BLOCK = ".L"

# A loop of fewer instructions of work than this has none: a lone multiply-add in a copy loop makes no product.
LEAST_WORK = {"matrix": 1, "multiply_add": 16}


@dataclass(frozen=True)
class Graph:
    """Basic blocks of a kernel and where each may go; `entries` are its start and the functions that it calls."""

    blocks: list[list[Instruction]]
    successors: list[list[int]]
    entries: list[int]


@dataclass(frozen=True)
class Loop:
    """A natural loop. `own` leaves out nested loops that have work of their own; `waiting` are its blocks that lie in
    nested loops without (spins on a barrier, for example); `way` are those of the steady iteration."""

    header: int
    body: frozenset[int]
    own: frozenset[int]
    waiting: frozenset[int]
    way: frozenset[int]


def build_graph(listing: Listing) -> Graph:
    """Cut a kernel into basic blocks."""
    instructions, labels = listing.instructions, listing.labels
    nexts = _nexts(listing)
    calls = (t for each in instructions if each.base == "CALL" and not _jumps_by_call(each) for t in each.targets)
    entries = {0, *(labels[target] for target in calls if labels.get(target, len(nexts)) < len(nexts))}
    leaders = set(entries)
    for i, after in enumerate(nexts):
        if after != [i + 1]:
            leaders.update(after, [i + 1])
    starts = sorted(leader for leader in leaders if leader < len(instructions))
    block_of = {start: block for block, start in enumerate(starts)}
    ends = [*starts[1:], len(instructions)]
    return Graph(
        blocks=[instructions[start:end] for start, end in zip(starts, ends)],
        successors=[[block_of[after] for after in nexts[end - 1]] for end in ends],
        entries=sorted(block_of[entry] for entry in entries),
    )


def _nexts(listing: Listing) -> list[list[int]]:
    """For each instruction, where control may go from it."""
    end = len(listing.instructions)
    reconverge: dict[str, int] = {}
    result = []
    for i, each in enumerate(listing.instructions):
        jumps = [listing.labels[target] for target in each.targets if listing.labels.get(target, end) < end]
        conditional = bool(each.guard or _PREDICATE.match(each.operands))  # `@P0 BRA`, `BRA.U !UP0, ...`
        barrier = _BARRIER.search(each.operands)
        falls = True
        if each.base == "BSSY":  # names where the BSYNC of its barrier goes on; jumps nowhere itself
            if barrier and jumps:
                reconverge[barrier[0]] = jumps[0]
            jumps = []
        elif each.base == "BSYNC":
            jumps = [reconverge[barrier[0]]] if barrier and barrier[0] in reconverge else []
            falls = bool(each.guard) or not jumps
        elif each.opcode.startswith(("BRA.DIV", "BRA.CONV")):  # the way of a diverged warp, never of a whole one
            jumps = []
        elif each.base in _JUMPS or _jumps_by_call(each):
            falls = conditional
        elif each.base in _ENDS:
            jumps, falls = [], conditional
        else:  # CALL returns, the rest goes on
            jumps = []
        result.append(sorted({*jumps, *([i + 1] if falls and i + 1 < end else [])}))
    return result


def _jumps_by_call(each: Instruction) -> bool:
    """ptxas also leaves a loop by CALL, to a block of the same function, from which nothing returns."""
    return each.base == "CALL" and any(target.startswith(_LABEL_OF_A_BLOCK) for target in each.targets)


def reverse_postorder(successors: list[list[int]], root: int) -> list[int]:
    """The blocks that can be reached, each before those it leads to, back edges aside."""
    order, seen = [], {root}
    stack = [(root, iter(successors[root]))]
    while stack:
        block, rest = stack[-1]
        following = next((after for after in rest if after not in seen), None)
        if following is None:
            order.append(block)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(successors[following])))
    return order[::-1]


def immediate_dominators(order: list[int], before: dict[int, list[int]]) -> dict[int, int]:
    """Of each block in reverse postorder, the last block that every way to it passes."""
    rank = {block: position for position, block in enumerate(order)}
    dominator = {order[0]: order[0]}

    def meet(a: int, b: int) -> int:
        while a != b:
            if rank[a] > rank[b]:
                a = dominator[a]
            else:
                b = dominator[b]
        return a

    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [each for each in before[block] if each in dominator]
            found = known[0]
            for each in known[1:]:
                found = meet(found, each)
            if dominator.get(block) != found:
                dominator[block] = found
                changed = True
    return dominator


def natural_loops(graph: Graph) -> dict[int, frozenset[int]]:
    """Header of each natural loop -> its blocks."""
    root = len(graph.blocks)
    successors = [*graph.successors, graph.entries]  # one root before all entries
    order = reverse_postorder(successors, root)
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for after in successors[block]:
            before[after].append(block)
    dominator = immediate_dominators(order, before)

    def dominates(a: int, b: int) -> bool:
        while b not in (a, root):
            b = dominator[b]
        return a == b

    loops: dict[int, set[int]] = {}
    for block in order:
        for header in successors[block]:
            if dominates(header, block):
                body, work = loops.setdefault(header, {header}), [block]
                while work:
                    each = work.pop()
                    if each not in body:
                        body.add(each)
                        work += before[each]
    return {header: frozenset(body) for header, body in loops.items()}


def hot_loop(graph: Graph, work: str) -> Loop | None:
    """The loop with most instructions of class `work` of its own, and of those the shortest; None without one.

    The shortest, because a masked twin of a loop is the longer one.
    """
    count = [sum(each.kind == work for each in block) for block in graph.blocks]
    loops = natural_loops(graph)
    working = {header: body for header, body in loops.items() if any(count[block] for block in body)}
    found = []
    for header, body in working.items():
        nested = [inner for other, inner in working.items() if other != header and inner < body]
        own = body.difference(*nested)
        spins = [inner for other, inner in loops.items() if other not in working and inner < body]
        waiting = own.intersection(frozenset().union(*spins))
        loop = Loop(header, body, own, waiting, _steady_way(graph, header, body, own, work))
        key = (sum(count[block] for block in own), -sum(len(graph.blocks[block]) for block in own))
        found.append((key, loop))
    if not found:
        return None
    (most, _), loop = max(found, key=lambda pair: pair[0])
    return loop if most >= LEAST_WORK[work] else None


def _steady_way(graph: Graph, header: int, body: frozenset[int], own: frozenset[int], work: str) -> frozenset[int]:
    """The own blocks that an iteration in the steady state passes.

    Of all ways from the header back to it, that with most work, then most asynchronous copies (so that the last
    iteration, which fetches no tile, is not taken), then fewest instructions (so that what only partial tiles do is
    left out).
    """
    order = reverse_postorder([_inside(after, body, header) for after in graph.successors], header)
    rank = {block: position for position, block in enumerate(order)}
    best = {header: (_value(graph, header, own, work), [header])}
    for block in order:
        reached, way = best[block]
        for after in _inside(graph.successors[block], body, header):
            if rank[after] > rank[block]:  # an edge back is of a nested loop: one pass of it
                value = _value(graph, after, own, work)
                total = (reached[0] + value[0], reached[1] + value[1], reached[2] + value[2])
                if after not in best or total > best[after][0]:
                    best[after] = (total, [*way, after])
    latches = [best[block] for block in order if header in graph.successors[block]]
    return own.intersection(max(latches, key=lambda pair: pair[0])[1])


def _value(graph: Graph, block: int, own: frozenset[int], work: str) -> tuple[int, int, int]:
    """Work, asynchronous copies, and instructions saved."""
    if block not in own:
        return 0, 0, 0
    kinds = [each.kind for each in graph.blocks[block]]
    return kinds.count(work), kinds.count("async_copy"), -len(kinds)


def _inside(successors: list[int], body: frozenset[int], header: int) -> list[int]:
    return [block for block in successors if block in body and block != header]
