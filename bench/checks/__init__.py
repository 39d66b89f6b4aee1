"""The checks that goals are made of."""

from bench.checks.base import Check, Reached
from bench.checks.memory import LinearMemory, MemoryShare, ThreadMemory
from bench.checks.speed import (
    BEST,
    BandwidthShare,
    FlopSaving,
    Mean,
    MeanWhereSlow,
    Minimum,
    Overhead,
    Packed,
    PeakShare,
    TileTime,
    WithinTwin,
)

__all__ = [
    "BEST",
    "BandwidthShare",
    "Check",
    "FlopSaving",
    "LinearMemory",
    "Mean",
    "MeanWhereSlow",
    "MemoryShare",
    "Minimum",
    "Overhead",
    "Packed",
    "PeakShare",
    "Reached",
    "ThreadMemory",
    "TileTime",
    "WithinTwin",
]
