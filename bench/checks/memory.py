"""Checks of peak extra memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from bench.checks.base import NOT_MEASURED, Reached
from bench.results import OURS, Record, Results


@dataclass(frozen=True)
class LinearMemory:
    """Peak extra memory grows no faster than the length."""

    slack: float = 1.25
    noise: int = 4 << 20

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """From length to twice the length it at most doubles (with a quarter and 4 MiB of slack)."""
        goal = "O(Lq + Lk) beyond inputs and outputs"
        points = (results.data.get("memory") or {}).get("lengths", {}).get(OURS, [])
        points = [(length, extra) for length, extra in points if isinstance(extra, (int, float))]
        if len(points) < 2:
            return Reached(goal, NOT_MEASURED, None)
        met = True
        for (short, less), (long, more) in pairwise(points):
            met = met and more <= self.slack * less * long / short + self.noise
        text = ", ".join(f"{extra / 2**20:.1f} MiB at {length}" for length, extra in points)
        return Reached(goal, text, met)


@dataclass(frozen=True)
class ThreadMemory:
    """Peak extra memory is scratch of the threads, whatever the size of the operands."""

    mib: float

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """The case that takes most decides."""
        goal = f"at most {self.mib:g} MiB a thread beyond inputs and results"
        found = _extra_memory(records, results, OURS)
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        name, most = max(found.items(), key=lambda pair: pair[1])
        text = f"most {most / 2**20:.1f} MiB at {name}, {len(found)} cases"
        return Reached(goal, text, most <= self.mib * 2**20 * results.machine["threads"])


@dataclass(frozen=True)
class MemoryShare:
    """Peak extra memory beside a peer's."""

    over: str
    at_most: float

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """The case with the largest share decides."""
        goal = f"extra memory <= {self.at_most:.0%} of {self.over}'s"
        own, peer = (_extra_memory(records, results, label) for label in (OURS, self.over))
        shares = {name: own[name] / peer[name] for name in own if peer.get(name)}
        if not shares:
            return Reached(goal, NOT_MEASURED, None)
        name, most = max(shares.items(), key=lambda pair: pair[1])
        text = f"most {most:.1%}, {own[name] / 2**20:.1f} MiB to {peer[name] / 2**20:.1f}, at {name}"
        return Reached(goal, text, most <= self.at_most)


def _extra_memory(records: list[Record], results: Results, label: str) -> dict[str, int]:
    """Bytes by case, where they were measured."""
    found = (results.data.get("memory") or {}).get("cases", {}).get(label, {})
    return {record.id: found[record.id] for record in records if isinstance(found.get(record.id), int)}
