"""Policy "fastest": what `patch` leaves to the library, by what was measured (docs/benchmarks) and known beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmkernels import _native

POLICIES = ("mmkernels", "fastest")

PADDING_LEFT_OUT = (
    "in evaluation torch leaves padded tokens out of the whole encoder, and with a quarter of them padding mmkernels "
    "runs at 0.82 to 0.87 x its speed"
)

_MEASURED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MEASURED_ISAS = ("avx512bf16", "avx512", "avx2")


def why_not(module: nn.Module, served_as: Any = None) -> str | None:
    """Why mmkernels is not expected to be faster for this module, in one sentence; None where it is.

    Nothing is run: device and dtypes of its parameters now, the processor, and what `served_as`, its stand-in, says of
    itself (`slower_in`: a sentence by dtype).
    """
    if not _native.loaded:
        return str(_native.why_not_loaded)
    isa = torch.ops.mmkernels_cpu.isa()
    if isa not in _MEASURED_ISAS:
        return f"mmkernels was not measured with the instruction set {isa!r}"
    for parameter in module.parameters():
        if parameter.device.type != "cpu":
            return f"it is on {parameter.device}, and mmkernels was measured on the CPU only"
        if parameter.is_floating_point() and parameter.dtype not in _MEASURED_DTYPES:
            return f"it has parameters in {parameter.dtype}, which mmkernels was not measured in"
    first = next(module.parameters(), None)
    slower = getattr(served_as, "slower_in", {})
    return None if first is None else slower.get(first.dtype)
