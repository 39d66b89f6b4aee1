"""Bugs that only compiled code has, planted in csrc/cuda: running a whole kernel's PTX sees each of them.

They stand in asm text, in what it tells the compiler, and in the entry points: files that the emulator has twins of or
does without, so that it cannot see them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.device.compile import nvcc
from tests.device.interpreted import Interpreted
from tests.device.kernel_cases import CASES
from tests.device.planted.planting import Bug, planted_sources
from tests.device.ptx import PtxError

pytestmark = pytest.mark.skipif(nvcc() is None, reason="no nvcc on the PATH to compile CUDA with")
SEEDS = range(2)
NUMBERS = "times the tolerance|NaN at"
"""What the rule of an op says."""


@dataclass(frozen=True)
class Planted:
    """A bug, the case that shows it, and a pattern of what is said of it."""

    bug: Bug
    case: str
    said: str = NUMBERS


def inline(file: str, old: str, new: str, case: str, said: str = NUMBERS, times: int = 1) -> Planted:
    """One in ptx/<file>.h."""
    return Planted(Bug(f"ptx/{file}.h", old, new, times), case, said)


_SUMS = '"+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])'
BUGS = {
    "values not transposed": inline("matrix", ".x4.trans.", ".x4.", "plain"),
    "words of the left operand swapped": inline("matrix", "{%4, %5, %6, %7}", "{%4, %6, %5, %7}", "fusion", times=2),
    "sums declared as written only": inline("matrix", _SUMS, _SUMS.replace("+", "="), "fusion", "never written"),
    "a wait for one group fewer": inline("memory", '"n"(pending)', '"n"(pending + 1)', "fusion"),
    "groups never ended": inline("memory", "cp.async.commit_group;", "", "plain"),
    "rest of a copy not zero": inline("memory", "[%1], 16, %2;", "[%1], 16;", "plain", "out of bounds.* of query"),
    "no barrier": inline("sync", "bar.sync 0;", "", "fusion"),
    "lanes that pass down": inline("sync", "shfl.sync.bfly", "shfl.sync.down", "few", times=2),
    "halves of a pair swapped": inline("convert", '"f"(high), "f"(low)', '"f"(low), "f"(high)', "plain", times=2),
    "tiles where the merge should be": Planted(
        Bug("launch/attention_entry.h", "Kernel(call).run_merge();", "Kernel(call).run();"),
        "splits",
        "out of bounds.* of shared memory",
    ),
    "bounds of half the threads": Planted(
        Bug("launch/fusion_device.h", "__launch_bounds__(Kernel::kThreads,", "__launch_bounds__(Kernel::kThreads / 2,"),
        "fusion",
        "is compiled for 32 threads",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_bug_is_seen(emulator, name):
    planted = BUGS[name]
    with planted_sources(planted.bug) as csrc:
        device = Interpreted(emulator, include=(csrc / "cuda", csrc))
        with pytest.raises((PtxError, AssertionError), match=planted.said):
            for seed in SEEDS:
                CASES[planted.case].run(device, seed)


def test_bugs_stand_where_the_emulator_does_not_look():
    """Of csrc/cuda it compiles neither ptx nor the entry points."""
    assert {planted.bug.file.split("/")[0] for planted in BUGS.values()} == {"ptx", "launch"}
    entries = {planted.bug.file for planted in BUGS.values() if planted.bug.file.startswith("launch/")}
    assert entries <= {"launch/attention_entry.h", "launch/fusion_device.h"}
