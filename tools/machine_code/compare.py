"""What got worse since an earlier report.

Regressions are: spills or local accesses where there were fewer; more registers, when fewer blocks fit for it; a hot
loop that needs over 2 % more issue slots for its products, or is gone. Under another nvcc only spills and local
accesses where there were none are held against the earlier report, since a compiler moves the rest about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SLACK = 1.02
NONE_WANTED = ("spill_store_bytes", "spill_load_bytes", "local_accesses")

Figures = dict[str, Any]
"""A report as report.py makes it or kept.py reads it, or a part of one."""


@dataclass
class Comparison:
    """Sentences for the reader; `regressions` alone make the check fail."""

    regressions: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    compared: int = 0


def compare(old: Figures, new: Figures) -> Comparison:
    """The new report against the old one, on the architectures of the new."""
    found = Comparison()
    same = old["nvcc"] == new["nvcc"]
    if not same:
        versions = f"nvcc is {new['nvcc']}, that of the earlier report {old['nvcc']}"
        found.remarks.append(f"{versions}: only spills and local accesses are compared")
    archs = {arch for kernel in new["kernels"].values() for arch in kernel}
    before, after = (
        {(name, arch): kernel[arch] for name, kernel in report["kernels"].items() for arch in kernel if arch in archs}
        for report in (old, new)
    )
    found.remarks += [f"{name}, {arch}: missing" for name, arch in sorted(before.keys() - after.keys())]
    found.remarks += [f"{name}, {arch}: new" for name, arch in sorted(after.keys() - before.keys())]
    for name, arch in sorted(before.keys() & after.keys()):
        found.compared += 1
        worse = _worse(before[name, arch], after[name, arch], same)
        found.regressions += [f"{name}, {arch}: {text}" for text in worse]
    return found


def _worse(old: Figures, new: Figures, same: bool) -> Iterator[str]:
    for figure in NONE_WANTED:
        if new[figure] > (old[figure] if same else 0) and (same or old[figure] == 0):
            yield f"{figure} {old[figure]} -> {new[figure]}"
    if not same:
        return
    if new["registers"] > old["registers"] and old["occupancy"] and new["occupancy"]:
        blocks = [each["occupancy"]["blocks"] for each in (old, new)]
        if blocks[1] < blocks[0]:
            registers = f"registers {old['registers']} -> {new['registers']}"
            yield f"{registers}, and so blocks of a multiprocessor {blocks[0]} -> {blocks[1]}"
    if old["hot_loop"] and not new["hot_loop"]:
        yield f"hot loop of {old['hot_loop']['whole']['work']} {old['hot_loop']['work']} instructions -> none"
    elif old["hot_loop"]:
        for part in ("whole", "steady"):
            paces = [each["hot_loop"][part]["slots_per_kflop"] for each in (old, new)]
            if paces[1] > paces[0] * SLACK:
                yield f"{part} slots_per_kflop {paces[0]} -> {paces[1]}"
