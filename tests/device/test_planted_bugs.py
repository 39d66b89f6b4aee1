"""Bugs planted in the sources of csrc/cuda: each applies, and the instrument that is named for it sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.device import test_primitives_ptx as primitives
from tests.device.compile import nvcc
from tests.device.planted import attention_backward, attention_forward, concat_fusion, contrastive_loss
from tests.device.planted.planting import planted_primitives
from tests.device.planted.primitives import PRIMITIVE_BUGS
from tests.device.ptx import Module

MODULES = (attention_forward, attention_backward, concat_fusion, contrastive_loss)
FAMILIES = {module.FAMILY.name: module.FAMILY for module in MODULES}
QUICK = {
    "attention_forward": ("causal", "no barrier in the ring", "one key too many"),
    "attention_backward": ("keys: no barrier in the ring", "derivative of softcap"),
    "concat_fusion": ("no barrier in the ring", "derivative of the activation"),
    "contrastive_loss": ("no barrier in the ring", "positives of a column"),
}
"""Bugs and problems in `make test`; the others are slow."""


def each(what: str) -> Iterator[ParameterSet]:
    """The problems or bugs of every family."""
    for family in FAMILIES.values():
        for name in getattr(family, what):
            marks = () if name in QUICK[family.name] else pytest.mark.slow
            yield pytest.param(family, name, marks=marks, id=f"{family.name}: {name}")


@pytest.mark.parametrize(("family", "name"), list(each("problems")))
def test_right_sources_pass(emulator, family, name):
    assert family.seen(emulator, name) == ""


@pytest.mark.parametrize(("family", "name"), list(each("bugs")))
def test_bug_is_seen(emulator, family, name):
    planted = family.bugs[name]
    assert family.seen(emulator, planted.problem, planted.bug) in planted.seen_by


@pytest.mark.skipif(nvcc() is None, reason="no nvcc on the PATH to compile CUDA with")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "matrices not transposed" else pytest.mark.slow) for n in PRIMITIVE_BUGS]
)
def test_bug_of_a_primitive_is_seen(name):
    """The test of the primitives passes on the right sources: they are its own subject."""
    planted = PRIMITIVE_BUGS[name]
    module = Module(planted_primitives(planted.bug))
    with pytest.raises(AssertionError):
        getattr(primitives, planted.test)(module, *planted.arguments)
