"""Medians, their spread, and how sure a median ratio is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of samples."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Ratio:
    """The median of per-round ratios and an interval that holds the true median with probability `coverage`."""

    median: float
    low: float
    high: float
    coverage: float
    count: int


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles (interpolated between samples)."""
    if not samples:
        raise ValueError("a spread needs at least one sample")
    low, median, high = np.quantile(samples, (0.25, 0.5, 0.75)).tolist()
    return Spread(median, low, high, len(samples))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Round by round: numerator / denominator, the median, and its order-statistic interval."""
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} and {len(denominators)} samples are not of the same rounds")
    return median_interval([a / b for a, b in zip(numerators, denominators)])


def median_interval(values: Sequence[float]) -> Ratio:
    """The narrowest pair of order statistics, equally far from both ends, that covers the median with 95 %.

    No distribution is assumed: the true median lies between the k-th smallest and the k-th largest of n samples with
    probability 1 - 2 P(Binomial(n, 1/2) < k). Fewer than 6 samples cannot reach 95 %: then it is all of them, and
    `coverage` says what that is worth.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    ordered, n = sorted(values), len(values)
    tail = 0.0
    rank = 1
    coverage = 1.0 - 2.0**-n * 2.0
    for k in range(1, n // 2 + 1):
        tail += math.comb(n, k - 1) * 2.0**-n
        if 1.0 - 2.0 * tail < CONFIDENCE:
            break
        rank, coverage = k, 1.0 - 2.0 * tail
    return Ratio(statistics.median(ordered), ordered[rank - 1], ordered[n - rank], max(coverage, 0.0), n)


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean of logarithms."""
    return math.exp(statistics.fmean(math.log(value) for value in values))
