"""An interval mask adds nothing to tiles that are seen whole: the code of the plain forward with and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.device.planted.planting import Bug, planted_sources
from tests.device.test_machine_code_report import missing_tool
from tools.machine_code.count import Kernel, count_kernel
from tools.machine_code.disassemble import compile_unit, nvcc_flags
from tools.machine_code.sass import parse

FORWARD = "kernels/attention_forward.h"
KERNELS = """
#include "launch/attention_entry.h"
MMK_NAMESPACE_BEGIN
template __global__ void attention_forward<ForwardKernels<Half, 64>::Plain>(const __grid_constant__ AttentionCall);
MMK_NAMESPACE_END
"""
WITHOUT = Bug(FORWARD, "      mask_logits(logits, first);\n", "")
EVERYWHERE = Bug(FORWARD, "} else if constexpr (!kFull) {\n      mask", "} else {\n      mask")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing_tool()), reason=missing_tool())]


def kernel(folder: Path, change: Bug | None) -> Kernel:
    """The figures of the kernel of sources with the change."""
    source = folder / "kernel.cu"
    source.write_text(KERNELS)
    with planted_sources(change) as csrc:
        flags = [flag for flag in nvcc_flags(80) if not flag.startswith("-I")]
        unit = compile_unit(source, 80, [*flags, f"-I{csrc / 'cuda'}", f"-I{csrc}"], folder)
    ((name, resources),) = unit.resources.items()
    return count_kernel(parse(unit.listing)[name], resources, 80, source.name)


def test_a_mask_adds_nothing_to_full_tiles(tmp_path):
    own, without, everywhere = (kernel(tmp_path, change) for change in (None, WITHOUT, EVERYWHERE))
    assert own.hot_loop and without.hot_loop and everywhere.hot_loop
    assert without.instructions < own.instructions, "partial tiles have an element test"
    assert own.hot_loop.steady.slots <= without.hot_loop.steady.slots
    assert own.hot_loop.whole.slots <= without.hot_loop.whole.slots
    assert everywhere.hot_loop.steady.slots > 1.2 * own.hot_loop.steady.slots, "the comparison sees a test"
