"""All cases: what every op has to measure.

Not the full cross product. Every row of the goal table (bench/goals.py) has the cases that decide it.
"""

from __future__ import annotations

from dataclasses import replace

from bench.case import Case
from bench.ops import OPS


def all_cases() -> list[Case]:
    """Every case once: one that several parts name answers to all of their groups."""
    found: dict[str, Case] = {}
    for op in OPS:
        for case in op.cases():
            if case.id in found:
                old = found[case.id]
                groups = tuple(dict.fromkeys((*old.groups, *case.groups)))
                found[case.id] = replace(old, groups=groups, twins=tuple(dict.fromkeys((*old.twins, *case.twins))))
            else:
                found[case.id] = case
    return list(found.values())
