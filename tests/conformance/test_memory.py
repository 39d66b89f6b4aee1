"""Nothing of size rows x keys is ever kept: the peak memory of long attention, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmkernels import _native

LENGTH, MIB = 16384, 1 << 20

SCRIPT = """
import sys
import torch
import mmkernels as mmk
length, what = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(2)

def status(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024

def call(length, backend):
    operands = [torch.randn(1, 1, length, 64).requires_grad_() for _ in range(3)]
    mask = bias = None
    if what == "masked":
        mask, bias = mmk.Mask.causal(), mmk.RelativeBias(torch.randn(1, 2 * length - 1).requires_grad_())
        operands.append(bias.table)
    d_out = torch.randn(1, 1, length, 64)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak starts anew from what is in use now
    before = status("VmRSS")
    out = mmk.attention(*operands[:3], mask=mask, bias=bias, backend=backend)
    found = torch.autograd.grad(out, operands, d_out)
    results = sum(x.nbytes for x in (out, *found))
    assert all(bool(grad.isfinite().all()) for grad in found)
    return status("VmHWM") - before - results

for backend in ("cpu", "reference"):
    call(256, backend)  # libraries, threads and the kernels' scratch
print(call(length, "cpu"), call(2048, "reference"))
"""


@pytest.mark.slow
@pytest.mark.skipif(not _native.loaded, reason=f"no C++ kernels: {_native.why_not_loaded}")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("what", ["plain", "masked"])
def test_memory_is_linear_in_the_length(what: str) -> None:
    """16384 x 16384: less than 64 MiB beside inputs, outputs and gradients; one such matrix would be 1024 MiB."""
    command = [sys.executable, "-c", SCRIPT, str(LENGTH), what]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=500)
    assert done.returncode == 0, done.stderr
    extra, by_reference = (int(word) / MIB for word in done.stdout.split())
    assert by_reference > 16, f"the measurement missed a 2048 x 2048 matrix of 16 MiB: it saw {by_reference:.1f} MiB"
    assert extra < 64, f"{extra:.1f} MiB"
