"""The machine-code figures in the repository: what is kept comes back, and a part of a run replaces a part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.device.listings import MMA, text_of
from tools.machine_code.compare import Figures, compare
from tools.machine_code.disassemble import ROOT, Resources, Unit
from tools.machine_code.kept import COLUMNS, LOOP_COLUMNS, MIX, read_kept, write_kept
from tools.machine_code.report import make_report
from tools.machine_code.sass import CLASSES, OTHER

LOOP = f".L_x_1:\n{MMA}\nLDGSTS.E.BYPASS.128 [R2], [R4.64]\nFADD R1, R1, R2\n@P0 BRA `(.L_x_1)\nEXIT"


def report(
    arch: int = 80, text: str = LOOP, registers: int = 128, bound: int | None = 128, name: str = "forward"
) -> Figures:
    symbol = f"_Z{len(name)}{name}v"
    bounds = {} if bound is None else {symbol: bound}
    found = {symbol: Resources(registers, 1024, 0, 0)}
    return make_report([Unit(Path(f"{name}.cu"), arch, 1.23, text_of(text, symbol), found, bounds)], "13.0", [])


def at(figures: Figures, column: str):
    for name in column.split("."):
        figures = figures[name]
    return figures


@pytest.mark.parametrize("bound", [128, None])
@pytest.mark.parametrize("text", [LOOP, "EXIT"], ids=["loop", "no loop"])
def test_what_is_kept_comes_back(tmp_path, text, bound):
    made, path = report(text=text, bound=bound), tmp_path / "kept.json"
    write_kept(made, path)
    kept = read_kept(path)
    before, after = (figures["kernels"]["forward"]["sm_80"] for figures in (made, kept))
    for column in COLUMNS:
        if bound is not None or not column.startswith("occupancy"):
            assert at(after, column) == at(before, column), column
    assert (after["occupancy"] is None) == (bound is None) and (after["hot_loop"] is None) == (text == "EXIT")
    if text == LOOP:
        for column in LOOP_COLUMNS[:-1]:
            assert at(after, column) == at(before, column), column
        assert after["hot_loop"]["mix"] == {name: 25 * (name in ("matrix", "copies", "float")) for name in MIX}
    assert kept["compile_seconds"] == {"forward.cu": {"sm_80": 1.2}}
    assert compare(kept, made).regressions == [] and list(tmp_path.iterdir()) == [path]


def test_regressions_are_seen_against_what_was_kept(tmp_path):
    path = tmp_path / "kept.json"
    write_kept(report(), path)
    worse = report(text=LOOP.replace("FADD R1", "STL [R1], R2\nFADD R1"), registers=136)
    told = "\n".join(compare(read_kept(path), worse).regressions)
    for figure in (
        "local_accesses 0 -> 1",
        "blocks of a multiprocessor 4 -> 3",
        "whole slots_per_kflop",
        "steady slots",
    ):
        assert figure in told


def test_a_run_of_some_architectures_replaces_these(tmp_path):
    path = tmp_path / "kept.json"
    write_kept(report(80), path)
    write_kept(report(90, registers=64), path)
    write_kept(report(80, registers=32), path)
    kept = read_kept(path)
    registers = {arch: figures["registers"] for arch, figures in kept["kernels"]["forward"].items()}
    assert registers == {"sm_80": 32, "sm_90": 64}
    assert kept["compile_seconds"] == {"forward.cu": {"sm_80": 1.2, "sm_90": 1.2}}
    write_kept(report(90) | {"nvcc": "12.9"}, path)
    assert list(read_kept(path)["kernels"]["forward"]) == ["sm_90"], "figures of two compilers do not mix"


def test_a_run_of_some_units_replaces_these(tmp_path):
    path = tmp_path / "kept.json"
    for arch in (80, 90):
        write_kept(report(arch), path)
    write_kept(report(80, name="merge"), path, whole=False)
    write_kept(report(80, registers=32), path, whole=False)
    kept = read_kept(path)
    found = {
        name: {arch: figures["registers"] for arch, figures in rows.items()} for name, rows in kept["kernels"].items()
    }
    assert found == {"forward": {"sm_80": 32, "sm_90": 128}, "merge": {"sm_80": 128}}
    assert sorted(kept["compile_seconds"]) == ["forward.cu", "merge.cu"]
    write_kept(report(80, name="merge"), path)
    assert {name: list(rows) for name, rows in read_kept(path)["kernels"].items()} == {
        "forward": ["sm_90"],
        "merge": ["sm_80"],
    }, "a kernel that the sources no longer have is gone"


def test_every_group_is_of_classes_that_exist():
    kinds = [kind for group in MIX.values() for kind in group]
    assert set(kinds) <= {name for name, _ in CLASSES} | {OTHER} and len(kinds) == len(set(kinds))


def test_the_kept_report_is_small():
    """Six architectures of some 260 kernels, a row each."""
    path = ROOT / "docs" / "benchmarks" / "machine_code.json"
    rows = [row for kernel in json.loads(path.read_text())["kernels"].values() for row in kernel.values()]
    assert len(rows) > 200 and path.stat().st_size < 400 * len(rows)
