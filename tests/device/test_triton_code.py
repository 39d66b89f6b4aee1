"""What the compiler makes of the Triton kernels: a sample compiled here, and the kept figures of every entry."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.triton_launch import ARCHITECTURES
from tools.ninja_rules import ROOT
from tools.triton_code import kept
from tools.triton_code.loops import rows as rows_of_loops
from tools.triton_code.sweep import Entry, entries, faults, record, tile_of

FILE = ROOT / "docs" / "benchmarks" / "triton_code.json"
KEPT = kept.read(FILE)


def kept_rows(entry):
    return [row for row in KEPT["kernels"] if tuple(row[name] for name in Entry._fields) == entry]


# ---- compiled here ----

SAMPLE = [
    Entry("contrastive", "sm_90", "bf16", 256, "sigmoid"),
    Entry("attention", "gfx942", "bf16", 64, "long"),
]
SLOW = [Entry("attention", arch, "bf16", 64, "plain") for arch in ("sm_80", "sm_90", "gfx942")]
SLOW += [Entry("fusion", arch, "bf16", 0, "normalised") for arch in ("sm_80", "sm_90", "gfx942")]
SLOW += [Entry("contrastive", arch, "bf16", 256, "softmax general") for arch in ("sm_80", "sm_90", "gfx942")]
SMALLEST = {"attention": 64, "fusion": 0, "contrastive": 256}
NIGHTLY = [entry for entry in entries(dtype=["bf16", "fp32"]) if entry.dim == SMALLEST[entry.op]]
NIGHTLY = [entry for entry in NIGHTLY if entry not in SAMPLE + SLOW]


@pytest.mark.parametrize(
    "entry",
    [*SAMPLE, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW),
     *(pytest.param(each, marks=pytest.mark.nightly) for each in NIGHTLY)],
    ids=lambda entry: " ".join(map(str, entry)),
)  # fmt: skip
def test_compiled(entry):
    """No spills, no more shared memory than there is, products on the matrix units; and the figures that are kept."""
    found = record(entry)
    assert not [(row["kernel"], faults(row)) for row in found if faults(row)]
    own = kept_rows(entry)
    if own and KEPT["triton"] == importlib.metadata.version("triton"):
        assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, own))


# ---- kept ----


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kept_figures_are_of_these_tables(arch):
    """Every entry has been compiled, with the kernels and tiles that it has now, and has no fault."""
    rows = [row for row in KEPT["kernels"] if row["arch"] == arch]
    found: dict[Entry, set[tuple[str, str]]] = {}
    for row in rows:
        found.setdefault(Entry(*(row[name] for name in Entry._fields)), set()).add((row["kernel"], row["tile"]))
    for entry, kernels in found.items():
        assert kernels == {(launch.name, tile_of(launch)) for launch in entry.launches}, entry
    assert not [(row["kernel"], row["tile"], faults(row)) for row in rows if faults(row)]
    assert set(found) == set(entries(arch=[arch]))


def test_faults():
    row = {"op": "attention", "arch": "sm_90", "dtype": "bf16", "dim": 64, "call": "plain", "registers": 1, "shared": 0}
    row |= {"kernel": "attention_forward", "tile": "height 64, keys 64", "spilled": 0, "matrix": "wgmma.mma_async"}
    assert faults(row) == []
    assert faults({**row, "spilled": 4}) == ["spills 4"]
    assert faults({**row, "shared": 1 << 20}) == ["1048576 bytes of shared memory, of 232448"]
    assert faults({**row, "matrix": "mma.sync"}) == ["no wgmma.mma_async"]
    assert faults({**row, "matrix": "mma.sync", "tile": "height 32, keys 64"}) == []
    assert faults({**row, "matrix": "", "arch": "gfx942", "dtype": "fp32"}) == ["no v_mfma"]
    assert faults({**row, "matrix": "", "dtype": "fp32"}) == faults({**row, "kernel": "attention_delta"}) == []


def test_file_is_written_whole(tmp_path):
    """Newer rows replace those of the same entries; what is read is what was written."""
    path = tmp_path / "figures.json"
    rows = KEPT["kernels"][:3]
    kept.write(path, "1", rows, [{"arch": "sm_80", "slots": 1}])
    assert kept.read(path)["kernels"] == rows and kept.read(path)["triton"] == "1"
    newer = {**rows[0], "registers": 1}
    assert newer in kept.laid_over(rows, [newer], Entry._fields) and rows[0] not in kept.laid_over(
        rows, [newer], Entry._fields
    )
    assert kept.read(tmp_path / "none.json")["kernels"] == [] and [each.name for each in tmp_path.iterdir()] == [
        path.name
    ]


# ---- hot loops ----


def test_loops_that_are_kept():
    """Beside the textbook's of the same run, without a spill in any of ours."""
    for arch in ("sm_80", "sm_90"):
        of_arch = {(row["dim"], row["kernel"]): row for row in KEPT["loops"] if row["arch"] == arch}
        assert {(64, "attention_forward"), (128, "attention_forward"), (64, "textbook"), (128, "textbook")} <= set(
            of_arch
        )
        assert all(row["steady"]["work"] for row in of_arch.values())


@pytest.mark.slow
def test_loop_is_read():
    """A block of keys at D 64 is two products of 16 x 8 x 16 pieces, shared by the warps."""
    found = {row["kernel"]: row for row in rows_of_loops("sm_80", "bf16", 64)}
    ours = found["attention_forward"]
    height, keys, warps = (int(ours["tile"].split(f"{name} ")[1].split(",")[0]) for name in ("height", "keys", "warps"))
    assert ours["steady"]["work"] == 2 * (height * keys * 64) // (16 * 8 * 16) // warps
    assert {"attention_grad_query", "attention_grad_keys", "textbook", "textbook with our tile"} < set(found)
