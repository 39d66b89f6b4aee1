"""Statistics on numbers whose answers are known."""

from __future__ import annotations

import random
import statistics

import pytest

from bench.medians import geometric_mean, median_interval, ratio, spread


def test_quartiles():
    found = spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.median, found.low, found.high, found.count) == (3.0, 2.0, 4.0, 5)


def test_ratio_is_taken_round_by_round():
    """A machine that is ten times slower in one round changes no ratio."""
    found = ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


def test_ratio_wants_the_same_rounds():
    with pytest.raises(ValueError, match="not of the same rounds"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("count", "rank"), [(5, 1), (6, 1), (9, 2), (12, 3), (15, 4), (20, 6)])
def test_order_statistics_are_those_of_the_tables(count: int, rank: int) -> None:
    """The ranks of the 95 % interval of a median, as statistics books tabulate them."""
    found = median_interval([float(value) for value in range(1, count + 1)])
    assert (found.low, found.high) == (rank, count + 1 - rank)
    assert found.coverage >= 0.95 or count == 5


def test_few_samples_say_what_they_are_worth():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]).coverage == pytest.approx(0.9375)
    assert median_interval([1.0]).coverage == 0.0


def test_interval_covers_the_true_median_as_often_as_it_says():
    generator = random.Random(0)
    hits, found = 0, None
    for _ in range(2000):
        found = median_interval([generator.expovariate(1.0) for _ in range(11)])
        hits += found.low <= 0.6931 <= found.high  # ln 2
    assert found is not None and abs(hits / 2000 - found.coverage) < 0.015


def test_geometric_mean():
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([3.0, 5.0, 7.0]) == pytest.approx(statistics.geometric_mean([3.0, 5.0, 7.0]))
