"""The goals, one declarative table, and how far a run reaches each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.attention import cases as attention
from bench.checks import (
    BEST,
    BandwidthShare,
    Check,
    FlopSaving,
    LinearMemory,
    Mean,
    MeanWhereSlow,
    MemoryShare,
    Minimum,
    Overhead,
    Packed,
    PeakShare,
    Reached,
    ThreadMemory,
    TileTime,
    WithinTwin,
)
from bench.contrastive import cases as contrastive
from bench.fusion import cases as fusion
from bench.results import NAIVE, SDPA, Results


@dataclass(frozen=True)
class Goal:
    """One row of the table."""

    group: str
    checks: tuple[Check, ...]


GOALS: tuple[Goal, ...] = (
    Goal(attention.FP32_FORWARD, (Mean(BEST, 1.5), Minimum(BEST), PeakShare(("square 1024", "square 2048 D128"), 0.8))),
    Goal(attention.FP32_BOTH, (Mean(SDPA, 1.5), Minimum(SDPA))),
    Goal(
        attention.HALF_FORWARD,
        (Mean(SDPA, 1.5, ("bfloat16",)), Mean(SDPA, 3.0, ("float16",)), WithinTwin(attention.OWN_FP32, 1.15)),
    ),
    Goal(attention.HALF_BOTH, (Mean(SDPA, 6.0, ("bfloat16",)), Mean(SDPA, 8.0, ("float16",)))),
    Goal(attention.TRAINING_EXTRAS, (Mean(SDPA, 2.5), Minimum(SDPA, 2.5))),
    Goal(attention.MASKS, (TileTime(), Packed())),
    Goal(attention.DECODE, (BandwidthShare(0.85),)),
    Goal(attention.FEW_QUERIES, (Mean(SDPA, 1.3), Minimum(SDPA, 1.3))),
    Goal(attention.TINY, (Overhead(),)),
    Goal(attention.MEMORY, (LinearMemory(),)),
    Goal(fusion.FP32_FORWARD, (Mean(BEST, 1.15), Minimum(BEST, 0.97), ThreadMemory(4))),
    Goal(fusion.HALF_FORWARD, (MeanWhereSlow(NAIVE, 8.0), ThreadMemory(4))),
    Goal(fusion.BOTH, (Mean(BEST, 1.15, ("float32",)), Mean(BEST, 1.15, ("bfloat16",)), ThreadMemory(4))),
    Goal(fusion.FULL, (Mean(BEST, 1.5), Minimum(BEST, 1.5))),
    Goal(fusion.SHARED, (FlopSaving(NAIVE, 0.8),)),
    Goal(
        contrastive.LOSS,
        (Mean(BEST, 1.5, ("float32",)), Mean(BEST, 1.5, ("bfloat16",)), MemoryShare(NAIVE, 0.1)),
    ),
)


def evaluate(results: Results) -> Iterator[tuple[Goal, list[Reached]]]:
    """Every goal with its checks."""
    for goal in GOALS:
        records = list(results.group(goal.group))
        yield goal, [check.evaluate(records, results) for check in goal.checks]
