"""The emulator itself: every detector sees what is planted for it, and right kernels pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.device.attention import emulated
from tests.device.planted.attention_forward_problems import call

# Which of two accesses comes first is chance: the read is found, or the write after it, or a copy on its way.
EARLY = "no barrier in between|nothing in between|in flight|no barrier after"
# kernel of planted/, what it must be called, and a pattern of the message
PLANTED = {
    "barrier": ("race", EARLY),
    "warp_barrier": ("race", EARLY),
    "barrier_of_block": ("race", EARLY),
    "shuffle_between": ("race", EARLY),
    "matrices_after_store": ("race", EARLY),
    "store_after_matrices": ("race", "nothing in between"),
    "own_row_after_matrices": ("race", "nothing in between"),
    "two_writers": ("race", "no barrier after the write"),
    "readers_then_writer": ("race", EARLY),
    "lanes_then_writer": ("race", EARLY),
    "last_reader_writes": ("race", "nothing in between"),
    "warps_then_writer": ("race", EARLY),
    "halves": ("race", "no barrier after the write"),
    "never_written": ("uninitialised", "which nobody wrote"),
    "half_a_block": ("divergence", "returned|returns"),
    "different_barriers": ("divergence", "while others wait at sync_block"),
    "different_collectives": ("divergence", "waits at"),
    "lane_skips": ("deadlock", "31 lanes from lane 0 wait at shuffle_xor"),
    "lane_returns": ("divergence", "returned|returns"),
    "waits_without_end": ("deadlock", "without end"),
    "shared_end": ("bounds", r"store of 4 bytes at shared\+4096, and the block has 4096"),
    "shared_begin": ("bounds", r"store of 4 bytes at shared\+-4"),
    "shared_row": ("alignment", "row of 16 bytes"),
    "shared_alignment": ("alignment", "store of 8 bytes"),
    "global_load_end": ("bounds", r"load of 4 bytes at in\+4096, which has 4096"),
    "global_store_begin": ("bounds", r"store of 4 bytes at out\+-4"),
    "global_other_array": ("bounds", r"load of 4 bytes at in\+"),
    "global_alignment": ("alignment", "load of 16 bytes"),
    "copy_alignment": ("alignment", "copy"),
    "null": ("pointer", "null"),
    "store_to_input": ("read-only", "which is an input"),
    "copy_wait": ("race", "in flight"),
    "copy_barrier": ("race", EARLY),
    "copy_barrier_first": ("race", EARLY),
    "copy_groups": ("race", "in flight"),
    "copy_commit": ("race", "in flight"),
    "copy_overwritten": ("race", "in flight"),
    "copy_over_copy": ("race", "in flight"),
    "copy_over_reads": ("race", EARLY),
    "copy_source": ("race", "a copy from there is in flight"),
    "copy_outstanding": ("copies", "never waited"),
    "blocks_write": ("race", "another block wrote another value"),
    "block_reads_other": ("race", "another block|orders them"),
    "block_writes_other": ("race", "another block|orders them"),
    "load_of_stored": ("race", "for what a launch does not write"),
    "store_of_loaded": ("race", "nothing in between"),
}
SEEDS = range(20)
# it takes a second to be sure; the lane that comes last to ldmatrix must once be the one that writes
HOW_OFTEN = {"waits_without_end": 1, "own_row_after_matrices": 200}


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """16-byte aligned, as the device's allocator gives at least."""
    memory = np.zeros(2 * 1024 + 4, np.float32)
    begin = -memory.ctypes.data % 16 // 4
    both = memory[begin : begin + 2048].reshape(2, 1024)
    both[0] = np.arange(1024)
    return both[0], both[1]


def run(emulator, name: str, broken: bool, **options):
    launch = emulator.Run(**options)
    emulator.run_planted(launch, name, broken, *arrays())
    return launch.stats


def test_every_planted_kernel_is_tested(emulator):
    assert set(emulator.planted()) == {*PLANTED, "dereference"}


@pytest.mark.parametrize("name", [*PLANTED, "dereference"])
def test_right_kernels_pass(emulator, name):
    for seed in SEEDS:
        assert run(emulator, name, False, seed=seed).reports == 0


@pytest.mark.parametrize("name", list(PLANTED))
def test_planted_bugs_are_seen(emulator, name):
    kind, words = PLANTED[name]
    for seed in range(HOW_OFTEN.get(name, len(SEEDS))):
        with pytest.raises(emulator.EmulatorError) as raised:
            run(emulator, name, True, seed=seed)
        error = raised.value
        first = error.reports[0]
        assert all(getattr(error, key) == value for key, value in first.items()) and len(error.reports) <= 20
        assert 0 <= error.thread < 128 and error.block in ((0, 0, 0), (1, 0, 0))
        # a thread that reads too early may find what nobody wrote: a report of its own
        seen = [each for each in error.reports if each["kind"] == kind and re.search(words, each["message"])]
        assert seen, "\n".join(each["kind"] + ": " + each["message"] for each in error.reports)
        assert all("emulator/planted/" in each["site"] + each["message"] for each in seen)


def test_the_lines_are_those_of_the_accesses(emulator):
    text = (Path(__file__).parent / "emulator" / "planted" / "shared.h").read_text().splitlines()
    with pytest.raises(emulator.EmulatorError) as raised:
        run(emulator, "two_writers", True)
    lines = re.findall(r"planted/shared\.h:(\d+)", raised.value.message + raised.value.site)
    assert len(lines) == 2
    assert all("if (lane_index() == 0 && (call.broken || warp_index() == 0))" in text[int(line) - 1] for line in lines)


def test_races_can_be_ignored(emulator):
    assert run(emulator, "barrier", True, races=False).reports == 0


def test_a_launch_after_an_error_starts_anew(emulator):
    for name in ("half_a_block", "lane_skips", "shared_end", "copy_outstanding"):
        with pytest.raises(emulator.EmulatorError):
            run(emulator, name, True)
        run(emulator, "copy_barrier", False)


def in_another_process(emulator, line: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import importlib.util, numpy as np\n"
        f"spec = importlib.util.spec_from_file_location('mmk_emulator', {emulator.__file__!r})\n"
        "emulator = importlib.util.module_from_spec(spec); spec.loader.exec_module(emulator)\n"
        f"run, x, y = emulator.Run(), np.zeros(1024, np.float32), np.zeros(1024, np.float32)\n{line}\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("broken", [False, True])
def test_pointers_cannot_be_dereferenced(emulator, broken):
    result = in_another_process(emulator, f"emulator.run_planted(run, 'dereference', {broken}, x, y)")
    assert (result.returncode != 0) == broken, result.stderr


@pytest.mark.skipif("MMKERNELS_EMULATOR" not in os.environ, reason="the module is instrumented by make sanitize only")
@pytest.mark.parametrize(("index", "seen"), [(3, False), (4, True)])
def test_a_read_past_a_threads_own_array_is_seen(emulator, index, seen):
    result = in_another_process(emulator, f"emulator.local_array(run, {index}, x, y)")
    assert ("AddressSanitizer: stack-buffer-overflow" in result.stderr) == seen, result.stderr
    assert (result.returncode != 0) == seen


@pytest.mark.parametrize("threads", [0, 33, 1056])
def test_blocks_of_whole_warps(emulator, threads):
    with pytest.raises(emulator.EmulatorError, match="launch"):
        emulator.primitives.indices(emulator.Run(), np.zeros(6 * 2048, np.int32), 1, 1, 1, threads)


# ---- what is counted ----


# bytes a lane, stride, extra cycles: 32 banks of 4 bytes; 8 bytes in two phases, 16 in four
@pytest.mark.parametrize(
    ("bytes", "stride", "extra"),
    [
        *((4, 4, 0), (4, 8, 1), (4, 128, 31), (4, 132, 0), (2, 2, 0), (2, 4, 0), (2, 64, 15)),
        *((8, 8, 0), (8, 16, 2), (16, 16, 0), (16, 32, 4), (16, 128, 28), (16, 80, 0)),
    ],
)
def test_bank_conflicts(emulator, bytes, stride, extra):
    launch = emulator.Run()
    emulator.strided(launch, bytes, stride, *arrays())
    found = {each.access: (each.accesses, each.extra_cycles) for each in launch.stats.bank_conflicts}
    assert found == {"store": (1, extra), "load": (1, extra)}


def test_counts(emulator):
    stats = run(emulator, "copy_over_reads", False)
    assert (stats.blocks, stats.barriers, stats.collectives) == (1, 4, 0)
    assert (stats.copies, stats.bytes_copied) == (256, 4096)
    assert (stats.shared_bytes_read, stats.global_bytes_written) == (1024, 1024)
    stats = run(emulator, "store_after_matrices", False)
    assert (stats.matrix_loads, stats.collectives) == (4, 12)


# ---- a whole kernel ----


def narrow(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(as the kernel takes it, as fp64)"""
    if kind == "half":
        return x.astype(np.float16), x.astype(np.float16).astype(np.float64)
    bits = x.view(np.uint32) >> 16
    return bits.astype(np.uint16), (bits << 16).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("kind", ["half", "bfloat16"])
@pytest.mark.parametrize("shape", [(64, 64, 32), (1, 1, 8), (100, 70, 72), (65, 130, 200)])
def test_tile_product(emulator, shape, kind):
    rows, columns, depth = shape
    rng = np.random.default_rng(rows)
    a, a_exact = narrow(rng.standard_normal((rows, depth), np.float32), kind)
    b, b_exact = narrow(rng.standard_normal((columns, depth), np.float32), kind)
    results = []
    for seed in SEEDS:
        c = np.full((rows, columns), np.nan, np.float32)
        launch = emulator.Run(seed=seed)
        getattr(emulator, f"tile_product_{kind}")(launch, a, b, c)
        results.append(c)
        assert launch.stats.reports == 0
        assert sum(each.extra_cycles for each in launch.stats.bank_conflicts) == 0
    bound = (depth + 1) * 2.0**-24 * (np.abs(a_exact) @ np.abs(b_exact).T)
    assert (np.abs(results[0] - a_exact @ b_exact.T) <= bound).all()
    assert all((c == results[0]).all() for c in results)  # the order of threads is nobody's business


def test_launches_of_entry_points_can_go_to_another_device(emulator):
    """Which is told what to run and on which memory; the machine runs nothing then."""
    told = []
    device = SimpleNamespace(
        Run=lambda seed: emulator.Run(seed=seed, device=told.append), attention_forward=emulator.attention_forward
    )
    with emulated(device):
        found = call(5, (9,), skip=1, stride=67).run("cuda")
    (launch,) = told
    assert launch["entry"] == "attention_forward" and launch["threads"] == 32 and launch["blocks"] == 1
    assert re.match(r"mmkernels::device::AttentionForward<mmkernels::Half, 64, ", launch["kernel"])
    arrays = {name: (address, lead, len(memory)) for name, address, lead, memory in launch["arrays"]}
    assert arrays["query"][1:] == (2, 2 + 2 * (4 * 67 + 64)) and arrays["out"][1:] == (0, 5 * 64 * 2)
    assert all(address.to_bytes(8, "little") in launch["argument"] for address, *_ in arrays.values())
    assert found["out"].isnan().all()
