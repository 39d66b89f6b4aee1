"""What the figures were taken on, and the most it can do: multiply-adds and bytes per second, measured in this run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mmkernels as mmk
from mmkernels import _native

READ_BYTES = 512 << 20


def describe() -> dict[str, Any]:
    """Processor, threads, versions."""
    native = _native.loaded
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory GiB": _memory(),
        "last-level cache MiB": round(last_level_cache() / 2**20, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch instruction set": torch.backends.cpu.get_cpu_capability(),
        "mmkernels": mmk.__version__,
        "mmkernels instruction set": torch.ops.mmkernels_cpu.isa() if native else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def why_no_peaks() -> str | None:
    """Why the peaks cannot be measured."""
    if not _native.loaded:
        return f"no native library: {_native.why_not_loaded}"
    if not hasattr(torch.ops.mmkernels_cpu, "measure_bf16"):
        return "the native library has no measure_bf16: build it anew"
    return None


def peaks() -> dict[str, float] | None:
    """GFLOP/s of chains in registers, of fp32 multiply-adds and of what multiplies bf16 here, and GB/s of reading
    512 MiB, on all threads; the best of several.
    """
    if why_no_peaks() is not None:
        return None
    buffer = torch.ones(READ_BYTES // 4)
    library = torch.ops.mmkernels_cpu
    fp32, bf16 = (max(gflops(chains) for _ in range(5)) for chains in (library.measure_fma, library.measure_bf16))
    bandwidth = max(read_bandwidth(buffer) for _ in range(7))
    return {"fma GFLOP/s": fp32, "bf16 GFLOP/s": bf16, "read GB/s": bandwidth}


def gflops(chains: Callable[[int], int], seconds: float = 0.05) -> float:
    """One measurement that takes about so long; ``chains`` runs some steps and returns the operations of them."""
    steps = 200_000
    while True:
        begin = time.perf_counter()
        operations = chains(steps)
        took = time.perf_counter() - begin
        if took >= seconds / 2:
            return operations / took / 1e9
        steps = int(steps * min(10.0, 1.1 * seconds / max(took, 1e-6)))


def read_bandwidth(buffer: torch.Tensor) -> float:
    """GB/s of one pass over a buffer."""
    begin = time.perf_counter()
    size = torch.ops.mmkernels_cpu.measure_read(buffer)
    return size / (time.perf_counter() - begin) / 1e9


def last_level_cache() -> int:
    """Bytes; 32 MiB where Linux does not say."""
    found = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        found = max(found, int(text.rstrip("KM")) * unit)
    return found or 32 << 20


class OtherLoad:
    """How much of the processors' time went to other processes, or to other guests of the same host, meanwhile."""

    def __init__(self) -> None:
        self._before = self._read()

    def share(self) -> float | None:
        """Since it was made; None where Linux does not say."""
        after = self._read()
        if after is None or self._before is None or after[0] <= self._before[0]:
            return None
        total, busy, own = (new - old for new, old in zip(after, self._before))
        return min(max((busy - own) / total, 0.0), 1.0)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        path = Path("/proc/stat")
        if not path.exists():
            return None
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in path.read_text().splitlines()[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        return sum(ticks), sum(ticks) - idle, sum(os.times()[:4])


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return name


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None
