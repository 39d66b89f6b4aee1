"""The figures that stay in the repository: a row of numbers a kernel and architecture, so that six of them are small.

What is left out can be had again by a run: where the loop stands, each class of its instructions, bytes by their way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmkernels.files import write_atomically

from .compare import Figures

COLUMNS = (
    "registers",
    "spill_store_bytes",
    "spill_load_bytes",
    "local_accesses",
    "static_shared_bytes",
    "dynamic_shared_bytes",
    "threads",
    "occupancy.blocks",
    "occupancy.warps",
    "occupancy.limited_by",
    "instructions",
    "matrix_instructions",
)
LOOP_COLUMNS = tuple(
    f"hot_loop.{name}"
    for name in (
        "work",
        *(f"{part}.{figure}" for part in ("whole", "steady") for figure in ("slots", "work", "slots_per_kflop")),
        "local_accesses",
        "conditional",
        "waiting",
        "global_bytes_per_kflop",
        "shared_bytes_per_kflop",
        "global_bytes_over_least",
        "mix",
    )
)
"""Of kernels that have a hot loop; the row of another ends before them."""

MIX = {
    "matrix": ("matrix",),
    "multiply_add": ("multiply_add",),
    "float": ("float", "half", "convert", "exp2", "special"),
    "shared": ("matrix_load", "shared"),
    "copies": ("async_copy", "global"),
    "integer": ("integer", "move", "constant"),
    "shuffle": ("shuffle",),
}
"""Groups of the classes of sass.py, whose shares of the hot loop are kept in per cent; what is left is control."""


def write_kept(report: Figures, path: Path, whole: bool = True) -> None:
    """Sorted, so that two reports of the same code differ in their seconds alone; a line a kernel and architecture.

    What stands there of the same nvcc stays: of architectures that the report lacks, and of kernels too unless it is of
    the `whole` of the sources.
    """
    kept = _kept(report)
    if path.exists():
        _add_others(kept, json.loads(path.read_text()), whole)
    _write(kept, path)


def _write(kept: Figures, path: Path) -> None:
    kernels = [
        f" {json.dumps(name)}: {{\n"
        + _lines([f'  "{arch}": {json.dumps(rows[arch])}' for arch in _archs(rows)])
        + "\n }"
        for name, rows in sorted(kept["kernels"].items())
    ]
    seconds = [
        f" {json.dumps(unit)}: {json.dumps({arch: told[arch] for arch in _archs(told)})}"
        for unit, told in sorted(kept["compile_seconds"].items())
    ]
    text = (
        f'{{\n"nvcc": {json.dumps(kept["nvcc"])},\n'
        f'"compile_seconds": {{\n{_lines(seconds)}\n}},\n'
        f'"columns": {json.dumps(kept["columns"])},\n'
        f'"mix": {json.dumps(kept["mix"])},\n'
        f'"kernels": {{\n{_lines(kernels)}\n}}\n}}\n'
    )
    write_atomically(path, text.encode())


def read_kept(path: Path) -> Figures:
    """A report as compare.py wants it, with the figures that were kept."""
    kept = json.loads(path.read_text())
    kernels = {
        name: {arch: _figures(kept["columns"], kept["mix"], row) for arch, row in kernel.items()}
        for name, kernel in kept["kernels"].items()
    }
    return {"nvcc": kept["nvcc"], "compile_seconds": kept["compile_seconds"], "kernels": kernels}


def shares(mix: dict[str, int]) -> list[int]:
    """Per cent of each group of MIX among instructions counted by class."""
    every = sum(mix.values())
    return [round(100 * sum(mix.get(kind, 0) for kind in kinds) / every) for kinds in MIX.values()]


def _kept(report: Figures) -> Figures:
    kernels = {
        name: {arch: _row(figures) for arch, figures in kernel.items()} for name, kernel in report["kernels"].items()
    }
    return report | {"columns": [*COLUMNS, *LOOP_COLUMNS], "mix": list(MIX), "kernels": kernels}


def _add_others(kept: Figures, earlier: Figures, whole: bool) -> None:
    """What the earlier report has that the present one does not replace, unless its rows are of another kind."""
    if any(kept[key] != earlier.get(key) for key in ("nvcc", "columns", "mix")):
        return
    present = {arch for rows in kept["kernels"].values() for arch in rows}
    for part in ("kernels", "compile_seconds"):
        for name, by_arch in earlier[part].items():
            replaced = present if whole else set(kept[part].get(name, {}))
            others = {arch: value for arch, value in by_arch.items() if arch not in replaced}
            if others:
                kept[part][name] = others | kept[part].get(name, {})


def _row(kernel: Figures) -> list[Any]:
    if kernel["hot_loop"] is None:
        return [_at(kernel, column) for column in COLUMNS]
    row = [_at(kernel, column) for column in (*COLUMNS, *LOOP_COLUMNS)]
    return [*row[:-1], shares(row[-1])]


def _at(figures: Figures, column: str) -> Any:
    """A figure inside of figures; None where these are missing."""
    found: Any = figures
    for name in column.split("."):
        found = None if found is None else found[name]
    return found


def _figures(columns: list[str], groups: list[str], row: list[Any]) -> Figures:
    figures: Figures = {"hot_loop": None}
    for column, value in zip(columns, row):
        *way, last = column.split(".")
        at = figures
        for name in way:
            at[name] = at = at.get(name) or {}
        at[last] = value
    if figures["occupancy"]["blocks"] is None:
        figures["occupancy"] = None
    if figures["hot_loop"]:
        figures["hot_loop"]["mix"] = dict(zip(groups, figures["hot_loop"]["mix"]))
    return figures


def _archs(figures: Figures) -> list[str]:
    return sorted(figures, key=lambda arch: int(arch.removeprefix("sm_")))


def _lines(entries: list[str]) -> str:
    return ",\n".join(entries)
