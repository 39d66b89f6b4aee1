"""Bugs planted in the real sources of csrc/cuda (planted_bugs.py): each applies, and the instrument named for it sees it."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import pytest

from tests import plain
from tests.device.attention import emulated
from tests.device.planted_bugs import KERNEL_BUGS
from tests.device.planted_problems import PROBLEMS
from tests.device.planting import planted_kernel
from tests.tolerance import Expectation, same_bits

SEEDS = range(5)
QUICK = ("no barrier in the ring", "one key too many")


@cache
def expectation(name: str) -> Expectation:
    """Of a problem; sequences whose ends lie have none."""
    return Expectation(PROBLEMS[name].make(), rounded=True)


def seen(module: ModuleType, name: str) -> str:
    """What an instrument sees of a problem in any of several thread orders; "" is nothing."""
    problem, lies = PROBLEMS[name], name == "ends that lie"
    inputs = problem.make() if lies else expectation(name).inputs
    for seed in SEEDS:
        try:
            with emulated(module, seed=seed, **problem.options) as device:
                found = plain.run(inputs, "cuda", None)
        except Exception as error:
            if not isinstance(error, module.EmulatorError):
                raise
            return error.kind
        assert device.told, "no kernel ran"
        if not lies and expectation(name).faults(found):
            return "numbers"
        if problem.same_bits:
            with emulated(module, **problem.options | {"processors": 0}):
                whole = plain.run(inputs, "cuda", None)
            try:
                for key, tensor in whole.items():
                    same_bits(key, found[key], tensor)
            except AssertionError:
                return "bits"
    return ""


@pytest.fixture(scope="module")
def right(emulator: ModuleType) -> ModuleType:
    """Without a bug; `emulator` has built what is linked."""
    return planted_kernel(None)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "causal" else pytest.mark.slow) for name in PROBLEMS])
def test_right_sources_pass(right, name):
    assert seen(right, name) == ""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in KERNEL_BUGS])
def test_bug_is_seen(emulator, name):
    planted = KERNEL_BUGS[name]
    assert seen(planted_kernel(planted.bug), planted.problem) in planted.seen_by
