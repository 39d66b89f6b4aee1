"""Bugs planted in the sources of csrc/cuda: each applies, and the instrument that is named for it sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from types import ModuleType

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from bench.attention.inputs import Inputs
from tests.device import test_primitives_ptx as primitives
from tests.device.attention import emulated
from tests.device.compile import nvcc
from tests.device.planted_bugs import KERNEL_BUGS
from tests.device.planted_primitives import PRIMITIVE_BUGS
from tests.device.planted_problems import PROBLEMS, Planted
from tests.device.planting import planted_kernel, planted_primitives
from tests.device.ptx import Module
from tests.tolerance import Expectation

SEEDS = range(5)
QUICK = ("no barrier in the ring", "one key too many", "matrices not transposed")


def quick(names: Iterable[str], *more: str) -> list[ParameterSet]:
    """All names; those that are not among the few of `make test` are slow."""
    return [pytest.param(name, marks=() if name in (*QUICK, *more) else pytest.mark.slow) for name in names]


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
    """Whether the output is not finite just where a row sees such a value, and elsewhere as in the clean call."""
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


@pytest.mark.parametrize("name", quick(PROBLEMS, "causal"))
def test_right_sources_pass(right, name):
    assert seen(right, name) == ""


@pytest.mark.parametrize("name", quick(KERNEL_BUGS))
def test_bug_is_seen(emulator, name):
    planted = KERNEL_BUGS[name]
    assert seen(planted_kernel(planted.bug), planted.problem) in planted.seen_by


@pytest.mark.skipif(nvcc() is None, reason="no nvcc on the PATH to compile CUDA with")
@pytest.mark.parametrize("name", quick(PRIMITIVE_BUGS))
def test_bug_of_a_primitive_is_seen(name):
    """The test of the primitives passes on the right sources: they are its own subject."""
    planted = PRIMITIVE_BUGS[name]
    module = Module(planted_primitives(planted.bug))
    with pytest.raises(AssertionError):
        getattr(primitives, planted.test)(module, *planted.arguments)
