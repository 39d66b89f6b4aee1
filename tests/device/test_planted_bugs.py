"""Bugs planted in the real sources of csrc/cuda (planted_bugs.py): each applies, and the instrument named for it sees it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bench.attention.inputs import Inputs
from tests.device.attention import emulated
from tests.device.planted_bugs import KERNEL_BUGS
from tests.device.planted_problems import PROBLEMS, Planted
from tests.device.planting import planted_kernel
from tests.tolerance import Expectation

SEEDS = range(5)
QUICK = ("no barrier in the ring", "one key too many")


@cache
def faults_of(name: str) -> Callable[[dict[str, Tensor], ModuleType], str]:
    """The check of a problem's results: "" or the name of the instrument that sees a fault."""
    problem = PROBLEMS[name]
    if problem.clean is not None:
        return lambda found, module: "" if isolated(problem, found, module) else "isolation"
    if name == "ends that lie":  # they have no right answer
        return lambda found, module: ""
    expected = Expectation(problem.make(), rounded=True)
    return lambda found, module: "numbers" if expected.faults(found) else ""


def isolated(problem: Planted, found: dict[str, Tensor], module: ModuleType) -> bool:
    """Whether the output is not finite just where a row sees such a value, and elsewhere has the bits of the clean call."""
    value = problem.make().values[0]
    sees = torch.ones(found["out"].shape[2], value.shape[2]).tril()
    poisoned = sees @ (~value.isfinite()).float() > 0
    clean = results(module, problem.clean(), problem)["out"]
    out = found["out"]
    return bool((out.isfinite() == ~poisoned).all() and (out[~poisoned] == clean[~poisoned]).all())


def results(module: ModuleType, inputs: Inputs, problem: Planted, seed: int = 0) -> dict[str, Tensor]:
    """Of the emulator."""
    with emulated(module, seed=seed, **problem.options) as device:
        found = inputs.run("cuda")
    assert device.told, "no kernel ran"
    return found


def seen(module: ModuleType, name: str) -> str:
    """The instrument that sees a fault of a problem in any of several thread orders; "" is none."""
    problem = PROBLEMS[name]
    inputs, faults = problem.make(), faults_of(name)
    for seed in SEEDS:
        try:
            found = results(module, inputs, problem, seed)
        except module.EmulatorError as error:
            return error.kind
        if fault := faults(found, module):
            return fault
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
