"""One report of all kernels, and the table that is read; kept.py writes what stays of it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .compare import Figures
from .count import Launch, count_kernel
from .disassemble import Unit, short_names
from .sass import parse

COLUMNS = ("registers", "spills", "local", "shared", "blocks", "warps", "slots", "work", "share", "/kFLOP", "steady")


def read_launches(path: Path) -> list[tuple[re.Pattern[str], Launch]]:
    """A JSON object, pattern of a kernel's short name -> fields of Launch."""
    return [(re.compile(pattern), Launch(**fields)) for pattern, fields in json.loads(path.read_text()).items()]


def make_report(units: list[Unit], nvcc: str, launches: list[tuple[re.Pattern[str], Launch]]) -> Figures:
    """`kernels` by name and architecture is what comparisons read; `compile_seconds` changes from run to run."""
    kernels: dict[str, dict[str, Any]] = {}
    seconds: dict[str, dict[str, float]] = {}
    for unit in units:
        arch = f"sm_{unit.arch}"
        seconds.setdefault(unit.source.name, {})[arch] = round(unit.seconds, 1)
        listings = parse(unit.listing)
        names = short_names(list(unit.resources))
        for mangled, resources in unit.resources.items():
            name = names[mangled]
            launch = next((launch for pattern, launch in launches if pattern.search(name)), Launch())
            bound = unit.launch_bounds.get(mangled)
            kernel = count_kernel(listings[mangled], resources, unit.arch, unit.source.name, launch, bound)
            if arch in kernels.get(name, {}):  # a name of its own for each of two units' private kernels
                name = f"{name} of {unit.source.name}"
            kernels.setdefault(name, {})[arch] = asdict(kernel)
    return {"nvcc": nvcc, "kernels": kernels, "compile_seconds": seconds}


def format_report(report: Figures) -> str:
    """One line a kernel and architecture, one a unit and its seconds."""
    lines = []
    archs = sorted({arch for kernel in report["kernels"].values() for arch in kernel}, key=lambda arch: int(arch[3:]))
    for arch in archs:
        rows = [(name, _row(kernel[arch])) for name, kernel in sorted(report["kernels"].items()) if arch in kernel]
        widths = [max(len(row[i]) for _, row in [("", list(COLUMNS)), *rows]) for i in range(len(COLUMNS))]
        for name, row in [(arch, list(COLUMNS)), *rows]:
            lines.append("  ".join([*(cell.rjust(width) for cell, width in zip(row, widths)), name]))
        lines.append("")
    for unit, seconds in sorted(report["compile_seconds"].items()):
        lines.append(f"{unit}: compiled in " + ", ".join(f"{value} s for {arch}" for arch, value in seconds.items()))
    return "\n".join(lines)


def _row(kernel: Figures) -> list[str]:
    loop, fits, dynamic = kernel["hot_loop"], kernel["occupancy"], kernel["dynamic_shared_bytes"]
    row = [
        str(kernel["registers"]),
        f"{kernel['spill_store_bytes']}+{kernel['spill_load_bytes']}",
        f"{kernel['local_accesses']} ({loop['local_accesses'] if loop else 0})",
        f"{kernel['static_shared_bytes']}+{'?' if dynamic is None else dynamic}",
    ]
    most = "<=" if dynamic is None else ""
    row += [f"{most}{fits[key]}" for key in ("blocks", "warps")] if fits else ["?", "?"]
    if not loop:
        return [*row, *["-"] * 5]
    whole = loop["whole"]
    work = f"{whole['work']} {'MMA' if loop['work'] == 'matrix' else 'FFMA'}"
    paces = [f"{loop[part]['slots_per_kflop']:.2f}" for part in ("whole", "steady")]
    return [*row, str(whole["slots"]), work, f"{whole['share']:.1%}", *paces]
