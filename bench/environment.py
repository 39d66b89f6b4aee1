"""Limiting every library to one instruction set, which they only read before they are loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "MMKERNELS_BENCH_ISA"

LIMITS = {
    "avx2": {
        "MMKERNELS_CPU_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}
"""What each instruction set needs in the environment."""


UNLIMITED = ("ONNX Runtime",)
"""Providers that know no such limit."""


def ignores_limit(name: str) -> bool:
    """Whether a provider uses more than the limit that is in force here: then it is shown, and is no peer."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return os.environ.get(MARK) == "avx2" and name in UNLIMITED and "avx512f" in flags


def limited(arguments: Sequence[str]) -> str | None:
    """The instruction set that the arguments ask for."""
    for index, word in enumerate(arguments):
        if word == "--isa" and index + 1 < len(arguments):
            return arguments[index + 1]
        if word.startswith("--isa="):
            return word.partition("=")[2]
    return None


def restart_limited(arguments: Sequence[str]) -> None:
    """Starts this program again with the limits in the environment, where they are asked for and not there yet."""
    isa = limited(arguments)
    if isa not in LIMITS or os.environ.get(MARK) == isa:
        return
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | LIMITS[isa] | {MARK: isa, "PYTHONPATH": os.pathsep.join(paths)}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "bench", *arguments], environment)
