"""Rounds, failures, and what a case becomes."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import pytest

from bench import measure, run
from bench.attention.op import ATTENTION
from bench.attention.problems import Problem
from bench.attention.providers import PROVIDERS
from bench.case import Case
from bench.measure import Runner
from bench.provider import Prepared, Provider
from bench.results import Record

TINY = Case(Problem("tiny", (5,), (9,), heads=2, dim=8), "float32", True, ())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0.0)


def provide(monkeypatch, *providers: Provider) -> None:
    """Attention by these providers."""
    monkeypatch.setattr(run, "op_of", lambda problem: replace(ATTENTION, providers=providers))


def runner(label: str, call) -> Runner:
    return Runner(label, [Prepared(call, lambda found: {})])


def test_rounds_rotate_and_every_runner_has_a_sample_in_each():
    order: list[str] = []
    runners = [runner(name, lambda name=name: (order.append(name), time.sleep(0.006))) for name in "abc"]
    for each in runners:
        measure.settle(each, 0.0)
    order.clear()
    assert measure.rounds(runners, 3, 10.0) == 3
    assert [len(each.samples) for each in runners] == [3, 3, 3]
    assert order[::2] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]  # each sample: one call for nothing, one timed


def test_short_calls_are_repeated_until_a_sample_is_long_enough():
    calls = []
    each = runner("short", lambda: (calls.append(1), time.sleep(0.0005)))
    measure.settle(each, 0.01)
    assert 5 <= each.calls <= 11
    assert 0.0004 < sum(each.samples or [0.0005]) < 0.01


def test_collector_is_off_meanwhile_and_on_again():
    seen = []
    each = runner("gc", lambda: seen.append(gc.isenabled()))
    measure.settle(each, 0.0)
    seen.clear()
    measure.rounds([each], 2, 1.0)
    assert not any(seen) and gc.isenabled()


def test_the_fastest_way_is_kept():
    slow = Prepared(lambda: time.sleep(0.004), lambda found: {}, "slow")
    fast = Prepared(lambda: time.sleep(0.001), lambda found: {}, "fast")
    broken = Prepared(lambda: 1 / 0, lambda found: {}, "broken")
    each = Runner("ways", [slow, broken, fast])
    measure.settle(each, 0.01)
    assert each.prepared.way == "fast" and set(each.way_seconds) == {"slow", "fast"} and each.failure is None


def test_cold_copies_take_turns():
    turns = []
    each = runner("cold", lambda: turns.append(0))
    measure.settle(each, 0.0)
    measure.rotate_copies(each, [Prepared(lambda n=n: turns.append(n), lambda found: {}) for n in (1, 2)])
    turns.clear()
    each.calls = 5
    measure.rounds([each], 1, 1.0)
    assert turns == [0, 1, 2, 0, 1, 2]


class Raising:
    """A peer whose exception must not end the run."""

    name = "raising"

    def __init__(self, when: str) -> None:
        self.when = when

    def version(self):
        return "0"

    def instruction_set(self):
        return "none"

    def why_not(self, case):
        return "it never can" if self.when == "why_not" else None

    def prepare(self, call):
        if self.when == "prepare":
            raise RuntimeError("cannot prepare\nand a long story")
        calls = []

        def fail():
            calls.append(1)
            if self.when == "run" or len(calls) > 4:
                raise ValueError("cannot run")

        return [Prepared(fail, lambda found: {})]


@pytest.mark.parametrize(
    ("when", "sentence"),
    [
        ("why_not", "it never can"),
        ("prepare", "RuntimeError: cannot prepare"),
        ("run", "ValueError: cannot run"),
        ("later", "ValueError: cannot run"),
    ],
)
def test_a_provider_that_raises_is_reported(monkeypatch, when: str, sentence: str) -> None:
    provide(monkeypatch, *PROVIDERS[:2], Raising(when))
    found = run.run_case(TINY, ["mmkernels", "SDPA", "raising"], 5, 0.2)
    assert found["runs"]["raising"] == {"kind": "peer", "why_not": sentence}
    for name in ("mmkernels", "SDPA"):
        assert len(found["runs"][name]["samples"]) >= 3


def test_a_provider_that_cannot_be_limited_is_no_peer_of_a_limited_run(monkeypatch):
    provide(monkeypatch, *PROVIDERS[:3])
    monkeypatch.setattr(run, "ignores_limit", lambda name: name == "naive")
    found = run.run_case(TINY, ["mmkernels", "SDPA", "naive"], 2, 0.05)
    assert found["runs"]["naive"]["kind"] == "unlimited" and found["runs"]["naive"]["error"]["allowed"] < 2
    assert Record(found).peers() == ["SDPA"]


def test_results_that_are_wrong_show_in_the_error(monkeypatch):
    """A peer that forgets the scale is as fast as any, and its error is far beyond what is allowed."""

    class Wrong(type(PROVIDERS[0])):
        name = "wrong"

        def prepare(self, call):
            (right,) = super().prepare(call)
            return [Prepared(right.run, lambda found: {name: 1.01 * x for name, x in right.results(found).items()})]

    provide(monkeypatch, PROVIDERS[0], Wrong())
    found = run.run_case(TINY, ["mmkernels", "wrong"], 2, 0.05)
    assert found["runs"]["mmkernels"]["error"]["allowed"] <= 1
    assert found["runs"]["wrong"]["error"]["allowed"] > 100
