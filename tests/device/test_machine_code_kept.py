"""The machine code of some kernels, made anew, against the kept report: what `make sass-check` does for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.machine_code.compare import Comparison, compare
from tools.machine_code.disassemble import ROOT, ToolError, compile_unit, find_tool, nvcc_flags, nvcc_version
from tools.machine_code.kept import read_kept
from tools.machine_code.report import make_report

KEPT = ROOT / "docs" / "benchmarks" / "machine_code.json"
TWO = """
#include "launch/attention_backward_entry.h"
#include "launch/attention_entry.h"
MMK_NAMESPACE_BEGIN
template __global__ void attention_forward<ForwardKernels<BFloat16, 64>::Plain>(const __grid_constant__ AttentionCall);
template __global__ void attention_backward<BackwardKernels<BFloat16, 64, false>::Query>(
    const __grid_constant__ AttentionBackwardCall);
MMK_NAMESPACE_END
"""
# Of every family and width, those with least registers to spare.
OTHERS = """
#include "launch/attention_backward_entry.h"
#include "launch/attention_entry.h"
#include "launch/contrastive_entry.h"
#include "launch/fusion_device.h"
#include "launch/fusion_table.h"
MMK_NAMESPACE_BEGIN
template __global__ void attention_forward<ForwardKernels<Half, 128>::Plain>(const __grid_constant__ AttentionCall);
template __global__ void attention_forward<ForwardKernels<Half, 256>::Plain>(const __grid_constant__ AttentionCall);
template __global__ void attention_forward<ForwardKernels<BFloat16, 256>::Few>(const __grid_constant__ AttentionCall);
template __global__ void attention_backward<BackwardKernels<float, 256, true>::Query>(
    const __grid_constant__ AttentionBackwardCall);
template __global__ void attention_backward<BackwardKernels<Half, 64, false>::Key>(
    const __grid_constant__ AttentionBackwardCall);
template __global__ void attention_backward<BackwardKernels<Half, 256, false>::Value>(
    const __grid_constant__ AttentionBackwardCall);
template __global__ void contrastive_loss<ContrastiveKernels<Half>::Slopes<false>>(
    const __grid_constant__ ContrastiveCall);
template __global__ void fusion_entry<WideFusion<Half, true>::Forward<false>>(const __grid_constant__ FusionLaunch);
template __global__ void fusion_entry<WideFusion<Half, true>::SourceGradient>(
    const __grid_constant__ SourceGradientCall);
MMK_NAMESPACE_END
"""
# Four blocks of 128 threads a multiprocessor leave a thread 128 registers.
CROWDED = """
#undef __launch_bounds__
#define __launch_bounds__(threads, ...) __annotate__(launch_bounds(threads, 4))
"""


def reason_to_skip() -> str:
    try:
        for name in ("nvdisasm", "cuobjdump"):
            find_tool(name)
        version = nvcc_version()
    except ToolError as error:
        return str(error)
    kept = read_kept(KEPT)["nvcc"]
    return "" if version == kept else f"nvcc is {version}, and the report was made by {kept}"


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())]


def compared(folder: Path, text: str) -> Comparison:
    source = folder / "kernels.cu"
    source.write_text(text)
    unit = compile_unit(source, 80, nvcc_flags(80), folder)
    return compare(read_kept(KEPT), make_report([unit], nvcc_version(), []))


@pytest.mark.parametrize("text", [TWO, OTHERS], ids=["two", "others"])
def test_kernels_are_as_they_were(tmp_path, text):
    found = compared(tmp_path, text)
    assert found.compared == text.count("template ") and found.regressions == []


def test_kernels_that_lack_registers_are_worse(tmp_path):
    found = compared(tmp_path, CROWDED + TWO)
    assert found.compared == 2
    for kernel in ("attention_forward", "attention_backward"):
        assert any(text.startswith(kernel) and "spill_store_bytes 0 ->" in text for text in found.regressions)
