"""Checks of times, and of ratios between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.attention.cases import OWN_DENSE
from bench.case import DTYPES, SHORT
from bench.checks.base import NOT_MEASURED, Reached
from bench.medians import Ratio, geometric_mean
from bench.results import OURS, SDPA, Record, Results

BEST = "best peer"
SURE = 0.95
"""What a lower confidence bound must reach where no case may be below 1."""


@dataclass(frozen=True)
class Mean:
    """Geometric mean of how many times faster ours is."""

    over: str
    at_least: float
    dtypes: tuple[str, ...] = DTYPES

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """Over all cases in which the peer ran."""
        goal = f"geometric mean over {self.over} >= {self.at_least:g}x{_dtypes(self.dtypes)}"
        found = [found.median for _, found in _ratios(records, self.over, self.dtypes)]
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        mean = geometric_mean(found)
        text = f"{mean:.2f}x over {len(found)} cases"
        best = [found.median for _, found in _ratios(records, BEST, self.dtypes)]
        if self.over != BEST and geometric_mean(best) < 0.95 * mean:
            text += f" ({geometric_mean(best):.2f}x the best peer of each)"
        return Reached(goal, text, mean >= self.at_least)


@dataclass(frozen=True)
class MeanWhereSlow:
    """Geometric mean over a peer where its products run far below the machine's multiply-adds; elsewhere reported."""

    over: str
    at_least: float
    below: float = 0.25

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """Slow: below this share of the fp32 multiply-add peak."""
        goal = (
            f"geometric mean over {self.over} >= {self.at_least:g}x where that runs "
            f"below {self.below:.0%} of the fp32 multiply-add peak"
        )
        peaks, found = results.machine.get("peaks"), list(_ratios(records, self.over))
        if not peaks or not found:
            return Reached(goal, NOT_MEASURED, None)
        most = self.below * peaks["fma GFLOP/s"]
        slow = [got.median for record, got in found if (record.gflops(self.over) or 0.0) < most]
        fast = [got.median for record, got in found if (record.gflops(self.over) or 0.0) >= most]
        texts = [
            f"{geometric_mean(values):.2f}x over {len(values)} cases where it is {word}"
            for word, values in (("slow", slow), ("not", fast))
            if values
        ]
        return Reached(goal, ", ".join(texts), geometric_mean(slow) >= self.at_least if slow else None)


@dataclass(frozen=True)
class Minimum:
    """The case in which ours is least ahead."""

    over: str
    at_least: float = 1.0

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """The median must reach the goal, and the lower confidence bound 95 % of it."""
        goal = f"no case below {self.at_least:g}x {self.over} (lower bound {SURE * self.at_least:.2f})"
        found = sorted(_ratios(records, self.over), key=lambda pair: pair[1].median)
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        record, worst = found[0]
        below = [pair for pair in found if not _holds(pair[1], self.at_least)]
        text = f"least {worst.median:.2f}x ({worst.low:.2f} to {worst.high:.2f}) at {record.id}"
        return Reached(goal, f"{text}; {len(below)} of {len(found)} cases below", not below)


@dataclass(frozen=True)
class PeakShare:
    """Share of the measured multiply-add peak."""

    problems: tuple[str, ...]
    at_least: float

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """Of named problems."""
        goal = f">= {self.at_least:.0%} of the measured FMA peak at {' and '.join(self.problems)}"
        peaks = results.machine.get("peaks")
        found = [record for record in records if record.data["problem"] in self.problems and record.gflops()]
        if not peaks or not found:
            return Reached(goal, NOT_MEASURED, None)
        shares = [(record.gflops() or 0.0) / peaks["fma GFLOP/s"] for record in found]
        text = ", ".join(f"{share:.0%} at {record.data['problem']}" for share, record in zip(shares, found))
        return Reached(goal, text, len(found) == len(self.problems) and min(shares) >= self.at_least)


@dataclass(frozen=True)
class WithinTwin:
    """Time beside another call of ours in the same rounds."""

    twin: str
    at_most: float

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """The slowest case decides."""
        goal = f"time <= {self.at_most:g}x {self.twin}"
        found = [(record, got) for record in records if (got := record.ratio(OURS, self.twin))]
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        record, worst = max(found, key=lambda pair: pair[1].median)
        over = sum(got.median > self.at_most for _, got in found)
        return Reached(goal, f"most {worst.median:.2f}x at {record.id}; {over} of {len(found)} cases over", not over)


@dataclass(frozen=True)
class TileTime:
    """Time of a masked call against its visible share of the dense one."""

    factor: float = 1.15
    seconds: float = 20e-6

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """time <= factor x share x dense + seconds, by medians; the case furthest over decides."""
        goal = f"time <= {self.factor:g} x visible 64x64 tiles x dense time + {self.seconds * 1e6:g} us"
        found = [(record, got) for record in records if (got := self.used(record)) is not None]
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        record, worst = max(found, key=lambda pair: pair[1])
        over = sum(got > 1 for _, got in found)
        text = f"most {worst:.2f} of what is allowed at {record.id}; {over} of {len(found)} cases over"
        return Reached(goal, text, not over)

    def used(self, record: Record) -> float | None:
        """Time in units of what is allowed."""
        own, dense = record.spread(OURS), record.spread(OWN_DENSE)
        if own is None or dense is None:
            return None
        return own.median / (self.factor * record.data["tile share"] * dense.median + self.seconds)


@dataclass(frozen=True)
class Packed:
    """Packed sequences beside the padded batch, which is not SDPA's best way where single calls are faster."""

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """Reported, without a goal."""
        goal = "packed sequences beside padded SDPA (reported)"
        found = []
        for record in records:
            own, ways = record.spread(OURS), record.runs.get(SDPA, {}).get("ways", {})
            padded = [seconds for way, seconds in ways.items() if way.startswith("padded")]
            if own and padded:
                found.append(min(padded) / own.median)
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        return Reached(goal, f"{min(found):.1f}x to {max(found):.1f}x over {len(found)} cases", None)


@dataclass(frozen=True)
class BandwidthShare:
    """Bytes that must move, over the time, beside a plain read of as many bytes in the same rounds."""

    at_least: float

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """The slowest dtype decides."""
        goal = f">= {self.at_least:.0%} of the memory bandwidth measured in the same rounds"
        found = [(record, got) for record in records if (got := record.ratio("plain read"))]
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        text = ", ".join(f"{got.median:.0%} {SHORT[record.data['dtype']]}" for record, got in found)
        return Reached(goal, text, min(got.median for _, got in found) >= self.at_least)


@dataclass(frozen=True)
class FlopSaving:
    """How much of the operations saved by multiplying a shared source once is saved in time."""

    over: str
    share: float

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """The case that keeps least of its saving decides."""
        goal = f"times faster than {self.over} >= {self.share:g}x the operations saved"
        found = [(got.median / record.data["saving"], record, got) for record, got in _ratios(records, self.over)]
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        kept, record, worst = min(found, key=lambda each: each[0])
        text = f"least {kept:.2f}x ({worst.median:.2f}x for {record.data['saving']:.2f}x fewer) at {record.id}"
        return Reached(goal, f"{text}; {sum(each[0] < self.share for each in found)} of {len(found)} cases below",
                       kept >= self.share)  # fmt: skip


@dataclass(frozen=True)
class Overhead:
    """What a call on a tiny problem costs beyond torch's."""

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """Forward, and forward and backward."""
        goal = "eager call <= SDPA + 10 us, with gradients + 30 us"
        found = results.data.get("overhead")
        if not found:
            return Reached(goal, NOT_MEASURED, None)
        text = ", ".join(f"{row['difference_us']:+.1f} us {name}" for name, row in found.items())
        return Reached(goal, text, all(row["difference_us"] <= row["budget_us"] for row in found.values()))


def _ratios(records: list[Record], over: str, dtypes: tuple[str, ...] = DTYPES) -> Iterator[tuple[Record, Ratio]]:
    for record in records:
        peer = record.best_peer() if over == BEST else over
        found = record.ratio(peer) if peer else None
        if found is not None and record.data["dtype"] in dtypes:
            yield record, found


def _holds(found: Ratio, at_least: float) -> bool:
    return found.median >= at_least and found.low >= SURE * at_least


def _dtypes(dtypes: tuple[str, ...]) -> str:
    return "" if dtypes == DTYPES else f" in {' and '.join(SHORT[dtype] for dtype in dtypes)}"
