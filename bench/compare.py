"""What got slower or faster between two runs, beyond what the spread explains.

The figure is how many times faster ours is than torch's own way (SDPA; for the other ops the naive path) in the same
rounds, which a slower or busier machine moves little; where that did not run in both, the time itself. A change counts
when the two intervals do not touch and the medians differ by more than 3 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.results import OURS, Record, Results

LEAST_CHANGE = 0.03


@dataclass(frozen=True)
class Change:
    """One case; `factor` above 1: faster than before."""

    id: str
    factor: float
    text: str


@dataclass(frozen=True)
class Comparison:
    """Of two runs."""

    regressions: list[Change]
    improvements: list[Change]
    compared: int
    warnings: list[str]


def compare(old: Results, new: Results) -> Comparison:
    """Case by case, those that both have."""
    slower, faster, compared = [], [], 0
    for record in new.records:
        before = old.find(record.id)
        if before is None:
            continue
        change = _change(before, record)
        if change is None:
            continue
        compared += 1
        if change.text and change.factor < 1:
            slower.append(change)
        elif change.text:
            faster.append(change)
    slower.sort(key=lambda change: change.factor)
    faster.sort(key=lambda change: -change.factor)
    return Comparison(slower, faster, compared, _warnings(old, new))


def _change(old: Record, new: Record) -> Change | None:
    """None: nothing to compare. An empty text: within the spread."""
    before, after = old.ratio(new.baseline), new.ratio(new.baseline)
    if before and after:
        factor = after.median / before.median
        apart = after.high < before.low or after.low > before.high
        text = (
            f"{after.median:.2f}x {new.baseline} ({after.low:.2f} to {after.high:.2f}), "
            f"was {before.median:.2f}x ({before.low:.2f} to {before.high:.2f})"
        )
        return Change(new.id, factor, text if apart and abs(factor - 1) > LEAST_CHANGE else "")
    was, now = old.spread(OURS), new.spread(OURS)
    if not was or not now:
        return None
    factor = was.median / now.median
    apart = now.low > was.high or now.high < was.low
    text = f"{now.median * 1e3:.3f} ms, was {was.median * 1e3:.3f} ms"
    return Change(new.id, factor, text if apart and abs(factor - 1) > LEAST_CHANGE else "")


def _warnings(old: Results, new: Results) -> list[str]:
    names = ("processor", "threads", "torch", "torch instruction set", "mmkernels instruction set")
    return [
        f"{name} differs: {old.machine.get(name)} then, {new.machine.get(name)} now"
        for name in names
        if old.machine.get(name) != new.machine.get(name)
    ]
