"""What counts as a goal that is met."""

from __future__ import annotations

import pytest

from bench import cases, checks, goals
from bench.attention.cases import MEMORY, OWN_FP32, SWEEPS, TINY
from bench.case import OTHERS
from bench.checks import (
    BandwidthShare,
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
from tests.bench.results import MACHINE, record, results


def check(kind: checks.Check, *records, **extra) -> Reached:
    found = results(*records)
    found.data.update(extra)
    return kind.evaluate(found.records, found)


def steady(seconds: float) -> list[float]:
    return [seconds] * 9


def test_mean_is_geometric():
    made = [
        record("a", [], mmkernels=steady(1.0), SDPA=steady(1.0)),
        record("b", [], mmkernels=steady(1.0), SDPA=steady(4.0)),
    ]
    assert check(Mean("SDPA", 2.0), *made).met
    assert not check(Mean("SDPA", 2.01), *made).met


def test_mean_of_one_dtype():
    made = [
        record("a", [], "bfloat16", mmkernels=steady(1.0), SDPA=steady(1.0)),
        record("b", [], "float16", mmkernels=steady(1.0), SDPA=steady(9.0)),
    ]
    assert not check(Mean("SDPA", 1.5, ("bfloat16",)), *made).met
    assert check(Mean("SDPA", 3.0, ("float16",)), *made).met


def test_best_peer_is_chosen_case_by_case():
    made = record("a", [], mmkernels=steady(1.0), SDPA=steady(3.0), naive=steady(1.2))
    reached = check(Mean(checks.BEST, 1.5), made)
    assert not reached.met and "1.20x" in reached.reached


def test_twins_are_not_peers():
    made = record("a", [], mmkernels=steady(1.0), SDPA=steady(3.0), own_dense=steady(0.5))
    assert check(Mean(checks.BEST, 2.9), made).met


def test_minimum_names_the_worst_case():
    made = [
        record("good", [], mmkernels=steady(1.0), SDPA=steady(2.0)),
        record("bad", [], mmkernels=steady(1.0), SDPA=steady(0.9)),
    ]
    reached = check(Minimum("SDPA"), *made)
    assert not reached.met and "bad" in reached.reached and "1 of 2" in reached.reached


def test_minimum_wants_its_lower_bound_too():
    """A median of 1 whose interval reaches down to 0.5 is not good enough."""
    unsteady = [0.5, 0.5, 0.5, 1.0, 1.1, 1.1, 1.1, 1.1, 1.1]
    assert not check(Minimum("SDPA"), record("a", [], mmkernels=steady(1.0), SDPA=unsteady)).met
    assert check(Minimum("SDPA"), record("a", [], mmkernels=steady(1.0), SDPA=[0.96, *[1.05] * 8])).met


def test_peak_share_wants_every_problem():
    fast, slow = record("fast", [], mmkernels=steady(0.011)), record("slow", [], mmkernels=steady(0.02))
    assert check(PeakShare(("fast",), 0.8), fast, slow).met
    assert not check(PeakShare(("fast", "slow"), 0.8), fast, slow).met
    assert not check(PeakShare(("fast", "absent"), 0.8), fast).met


def test_twin_of_ours():
    made = record("a", [], "bfloat16", mmkernels=steady(1.2), own_fp32=steady(1.0))
    assert not check(WithinTwin(OWN_FP32, 1.15), made).met
    assert check(WithinTwin(OWN_FP32, 1.25), made).met


def test_masked_time_is_held_to_the_visible_share():
    """Half of the tiles: 1.15 x 0.5 x 1 ms + 20 us = 595 us."""
    at = lambda seconds: record("a", [], mmkernels=steady(seconds), own_dense=steady(1e-3))  # noqa: E731
    assert check(TileTime(), at(590e-6)).met
    assert not check(TileTime(), at(600e-6)).met


def test_a_mean_that_hides_a_faster_peer_says_so():
    made = record("a", [], mmkernels=steady(1.0), SDPA=steady(3.0), naive=steady(0.5))
    reached = check(Mean("SDPA", 2.0), made)
    assert reached.met and "0.50x the best peer" in reached.reached


def test_packed_is_reported_beside_the_padded_way():
    made = record("a", [], mmkernels=steady(1.0), SDPA=steady(2.0))
    made["runs"]["SDPA"]["ways"] = {"one call a sequence": 2.0, "padded, bool mask": 3.0, "padded, float mask": 2.5}
    reached = check(Packed(), made)
    assert reached.met is None and "2.5x" in reached.reached


def test_bandwidth():
    made = record("a", [], mmkernels=steady(1.0), plain_read=steady(0.9))
    assert check(BandwidthShare(0.85), made).met
    assert not check(BandwidthShare(0.95), made).met


@pytest.mark.parametrize(("microseconds", "met"), [(9.0, True), (11.0, False)])
def test_overhead(microseconds: float, met: bool) -> None:
    assert check(Overhead(), overhead={"forward": {"difference_us": microseconds, "budget_us": 10.0}}).met is met


def test_memory_grows_with_the_length_not_its_square():
    mib = 1 << 20
    linear = [[1024 * 2**n, 8 * mib * 2**n] for n in range(4)]
    square = [[1024 * 2**n, 8 * mib * 4**n] for n in range(4)]
    assert check(LinearMemory(), memory={"lengths": {"mmkernels": linear}}).met
    assert not check(LinearMemory(), memory={"lengths": {"mmkernels": square}}).met


def test_mean_where_the_peer_is_slow():
    """10 GFLOP/s of 100 are slow, 50 are not; the record has 10^9 operations."""
    slow = record("slow", [], mmkernels=steady(0.0125), naive=steady(0.1))
    fast = record("fast", [], mmkernels=steady(0.02), naive=steady(0.02))
    reached = check(MeanWhereSlow("naive", 7.9), slow, fast)
    assert reached.met and "8.00x over 1 cases where it is slow, 1.00x over 1 cases where it is not" in reached.reached
    assert not check(MeanWhereSlow("naive", 8.1), slow, fast).met
    reached = check(MeanWhereSlow("naive", 8.0), fast)
    assert reached.met is None and "where it is not" in reached.reached


def test_share_of_the_operations_saved():
    """Half of the operations: twice as fast keeps all of the saving, 1.7 times 85 %, 1.5 times 75 %."""
    made = [record(name, [], mmkernels=steady(1.0), naive=steady(times)) for name, times in (("a", 1.7), ("b", 2.0))]
    for each in made:
        each["saving"] = 2.0
    reached = check(FlopSaving("naive", 0.8), *made)
    assert reached.met and "least 0.85x" in reached.reached and "at a;" in reached.reached
    made[1]["runs"]["mmkernels"]["samples"] = steady(4 / 3)
    reached = check(FlopSaving("naive", 0.8), *made)
    assert not reached.met and "least 0.75x" in reached.reached and "1 of 2" in reached.reached


def test_memory_of_threads_and_beside_a_peer():
    mib = 1 << 20
    made = [record("a", [], mmkernels=steady(1.0)), record("b", [], mmkernels=steady(1.0))]
    measured = {
        "cases": {"mmkernels": {"a": 3 * mib, "b": 4 * mib, "c": 99 * mib}, "naive": {"a": 60 * mib, "b": "no"}}
    }
    reached = check(ThreadMemory(4), *made, memory=measured)  # one thread
    assert reached.met and "at b" in reached.reached and "2 cases" in reached.reached
    assert not check(ThreadMemory(3.9), *made, memory=measured).met
    assert check(MemoryShare("naive", 0.05), *made, memory=measured).met
    assert not check(MemoryShare("naive", 0.04), *made, memory=measured).met
    for kind in (ThreadMemory(4), MemoryShare("naive", 0.1)):
        assert check(kind, *made, memory={"cases": {"SDPA": {"a": 1}}}).met is None


def test_what_was_not_measured_is_neither_met_nor_missed():
    for goal, reached in goals.evaluate(results()):
        assert all(each.met is None for each in reached), goal.group


def test_every_goal_has_cases_and_every_case_a_known_group():
    groups = {group for case in cases.all_cases() for group in case.groups}
    without_cases = {TINY, MEMORY}
    assert {goal.group for goal in goals.GOALS} - without_cases <= groups
    assert groups <= {goal.group for goal in goals.GOALS} | set(SWEEPS) | {OTHERS}


def test_case_names_are_unique():
    names = [case.id for case in cases.all_cases()]
    assert len(names) == len(set(names)) > 100


def test_the_roofline_is_the_lower_of_two_peaks():
    """1,000 operations a byte at 10 GB/s allow more than any peak; 10 allow 100 GFLOP/s, whatever the products."""
    for dtype, peak in (("float32", 100.0), ("float16", 100.0), ("bfloat16", 200.0)):
        found = record("a", ["fp32 forward"], dtype)
        assert results(found).records[0].roofline(MACHINE) == peak
        found["bytes"] = 10**8
        assert results(found).records[0].roofline(MACHINE) == 100.0
        assert results(found).records[0].roofline({"peaks": None}) is None
