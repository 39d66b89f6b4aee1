"""Interleaved rounds: every runner once a round, in rotated order, until the rounds or the time are used up.

A sample is the mean of as many calls in a row as last 5 ms (one call where it takes longer). Before each sample stands
one call that is not timed, so that a runner finds its own data in the caches rather than its neighbour's, and a short
pause, so that the idle threads of another library stop spinning. Python's garbage collector is off.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from bench.provider import Prepared

SAMPLE_SECONDS = 5e-3
PAUSE_SECONDS = 10e-3
"""Longer than the threads of libgomp spin after a call (3 to 5 ms seen)."""
LONG_CALL = 50e-3
"""Calls longer than this are not preceded by one that is not timed."""
FEWEST_ROUNDS, FEWEST_LONG_ROUNDS = 5, 3
"""Whatever the time; the latter where a round takes a second and more."""


@dataclass
class Runner:
    """Something to time."""

    label: str
    ways: list[Prepared]
    """The fastest is kept by `settle`."""
    copies: list[Prepared] = field(default_factory=list)
    """The same way on other operands, for cold caches: they take turns."""
    way_seconds: dict[str, float] = field(default_factory=dict)
    calls: int = 1
    samples: list[float] = field(default_factory=list)
    """Seconds a call, one per round."""
    failure: str | None = None
    returned: Any = field(default=None, repr=False)
    """What a call returned, for the check of its results."""
    _next: Callable[[], Any] = field(default=lambda: None, repr=False)

    @property
    def prepared(self) -> Prepared:
        """The way that is measured."""
        return self.ways[0]


def sentence(error: BaseException) -> str:
    """An exception as one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def settle(runner: Runner, seconds: float = 0.25) -> None:
    """Warms the runner up, keeps the fastest of its ways, and counts the calls of a sample."""
    timed: list[tuple[float, Any, Prepared]] = []
    failures = []
    for way in runner.ways:
        try:
            timed.append((*_warm(way.run, seconds), way))
        except Exception as error:
            failures.append(f"{way.way}: {sentence(error)}" if way.way else sentence(error))
    if not timed:
        runner.failure = "; ".join(failures) or "no way to compute it"
        return
    timed.sort(key=lambda each: each[0])
    runner.way_seconds = {way.way: took for took, _, way in timed}
    runner.ways = [way for _, _, way in timed]
    runner.returned = timed[0][1]
    runner.calls = max(1, round(SAMPLE_SECONDS / max(timed[0][0], 1e-7) + 0.49))
    if not runner.copies:
        runner._next = runner.prepared.run


def rotate_copies(runner: Runner, copies: list[Prepared]) -> None:
    """From now on calls take turns between these and the runner's own, so that none finds its operands in a cache."""
    runner.copies = [runner.prepared, *copies]
    turns = cycle([copy.run for copy in runner.copies])
    runner._next = lambda: next(turns)()


def rounds(runners: list[Runner], most: int, seconds: float) -> int:
    """Fills `samples` of every runner that has not failed; returns the number of complete rounds."""
    done, fewest = 0, 1
    with _no_collection():
        begin = time.perf_counter()
        while done < most and (done < fewest or time.perf_counter() < begin + seconds):
            alive = [runner for runner in runners if runner.failure is None]
            if not alive:
                break
            turn = done % len(alive)
            for runner in alive[turn:] + alive[:turn]:
                try:
                    runner.samples.append(_sample(runner))
                except Exception as error:
                    runner.failure = sentence(error)
                    runner.samples.clear()
            done += 1
            fewest = FEWEST_LONG_ROUNDS if time.perf_counter() - begin > done else FEWEST_ROUNDS
    return done


def interleaved(
    calls: Mapping[str, Callable[[], Any]], most: int, seconds: float
) -> tuple[int, dict[str, list[float]]]:
    """Complete rounds of named calls, and the seconds of each call in them. RuntimeError: some failed, and how."""
    runners = [Runner(name, [Prepared(call, lambda returned: {})]) for name, call in calls.items()]
    for runner in runners:
        settle(runner)
    done = rounds(runners, most, seconds)
    failed = {runner.label: runner.failure for runner in runners if runner.failure}
    if failed:
        raise RuntimeError(str(failed))
    return done, {runner.label: runner.samples for runner in runners}


def _sample(runner: Runner) -> float:
    call, calls = runner._next, runner.calls
    time.sleep(PAUSE_SECONDS)
    if not runner.samples or runner.samples[-1] < LONG_CALL:
        call()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def _warm(run: Callable[[], Any], seconds: float) -> tuple[float, Any]:
    """The shortest of a few calls, and what the last one returned. The first does not count unless it is long."""
    time.sleep(PAUSE_SECONDS)
    deadline = time.perf_counter() + seconds
    best, returned = float("inf"), None
    for repeat in range(20):
        begin = time.perf_counter()
        returned = run()
        end = time.perf_counter()
        if repeat or end - begin > LONG_CALL:
            best = min(best, end - begin)
        if end > deadline and best < float("inf"):
            break
    return best, returned


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
