"""A planted regression is found, noise is not."""

from __future__ import annotations

from bench.compare import compare
from tests.bench.results import record, results

NOISE = [1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.03, 0.97, 1.0]


def run(own: float, peer: float = 2.0, machine: float = 1.0):
    own_times = [own * machine * noise for noise in NOISE]
    peer_times = [peer * machine * noise for noise in reversed(NOISE)]
    return results(record("case", [], mmkernels=own_times, SDPA=peer_times))


def test_regression():
    found = compare(run(1.0), run(1.2))
    assert [change.id for change in found.regressions] == ["case"] and not found.improvements
    assert abs(found.regressions[0].factor - 1 / 1.2) < 0.03


def test_improvement():
    found = compare(run(1.2), run(1.0))
    assert [change.id for change in found.improvements] == ["case"] and not found.regressions


def test_noise_is_no_change():
    found = compare(run(1.0), run(1.02))
    assert found.compared == 1 and not found.regressions and not found.improvements


def test_a_slower_machine_is_no_regression():
    found = compare(run(1.0), run(1.0, machine=1.7))
    assert not found.regressions and not found.improvements


def test_other_ops_are_held_against_the_naive_path():
    """On a machine that is 1.7 times slower, where ours got slower by a fifth beside it."""

    def fusion(own: float, machine: float = 1.0):
        times = {"mmkernels": [own * machine * x for x in NOISE], "naive": [2 * machine * x for x in reversed(NOISE)]}
        return results(record("case", [], op="concat_fusion", **times))

    assert not compare(fusion(1.0), fusion(1.0, machine=1.7)).regressions
    (change,) = compare(fusion(1.0), fusion(1.2, machine=1.7)).regressions
    assert "x naive" in change.text and abs(change.factor - 1 / 1.2) < 0.03


def test_without_sdpa_times_are_compared():
    old = results(record("case", [], mmkernels=[1.0 * noise for noise in NOISE]))
    new = results(record("case", [], mmkernels=[1.3 * noise for noise in NOISE]))
    assert [change.id for change in compare(old, new).regressions] == ["case"]


def test_other_versions_are_pointed_out():
    old, new = run(1.0), run(1.0)
    new.machine["torch"] = "1"
    assert any("torch differs" in warning for warning in compare(old, new).warnings)
