"""The machine-code report over all kernels: occupancy, the tools' output, comparisons, and one real compile."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.device.listings import MMA, text_of
from tools.machine_code.compare import compare
from tools.machine_code.disassemble import (
    ROOT,
    Resources,
    ToolError,
    Unit,
    find_tool,
    launch_bounds,
    resources,
    shorten,
    toolkit,
)
from tools.machine_code.kept import read_kept
from tools.machine_code.occupancy import LIMITS, occupancy
from tools.machine_code.report import format_report, make_report, read_launches

# ---- occupancy ----


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "blocks"),
    [
        # blocks for each of 80, 86, 89, 90, 100, 120 as cuda_occupancy.h of CUDA 13.0 computes them
        (128, 128, 0, [4, 4, 4, 4, 4, 4]),
        (128, 129, 0, [3, 3, 3, 3, 3, 3]),
        (128, 255, 65536, [2, 1, 1, 2, 2, 1]),
        (128, 168, 81920, [2, 1, 1, 2, 2, 1]),
        (128, 64, 16384, [8, 5, 5, 8, 8, 5]),
        (128, 64, 33000, [4, 3, 3, 6, 6, 3]),
        (96, 168, 4096, [4, 4, 4, 4, 4, 4]),
        (160, 40, 0, [9, 9, 9, 9, 9, 9]),
        (32, 16, 0, [32, 16, 24, 32, 32, 24]),
        (1024, 64, 0, [1, 1, 1, 1, 1, 1]),
        (1024, 65, 0, [0, 0, 0, 0, 0, 0]),
        (256, 128, 101376, [1, 1, 1, 2, 2, 1]),
        (256, 128, 101377, [1, 0, 0, 2, 2, 0]),
        (256, 128, 232448, [0, 0, 0, 1, 1, 0]),
    ],
)
def test_occupancy(threads, registers, shared, blocks):
    assert [occupancy(arch, threads, registers, shared).blocks for arch in LIMITS] == blocks


def test_what_limits_occupancy():
    assert occupancy(80, 128, 255, 0).limited_by == "registers"
    assert occupancy(80, 128, 32, 65536).limited_by == "shared memory"
    assert occupancy(80, 1024, 32, 0).limited_by == "warps"
    assert occupancy(80, 32, 16, 0).limited_by == "blocks"
    half = occupancy(80, 256, 64, 0)
    assert (half.blocks, half.warps, half.share) == (4, 32, 0.5)


# ---- what the tools print ----

LOG = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Zk' for 'sm_80'
ptxas info    : Function properties for _Zk
    232 bytes stack frame, 320 bytes spill stores, 328 bytes spill loads
ptxas info    : Function properties for _Zsub
    0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 4096 bytes smem, 372 bytes cmem[0]
ptxas info    : Compiling entry function '_Zl' for 'sm_80'
ptxas info    : Function properties for _Zl
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 0 barriers
"""


def test_resources_of_a_log():
    assert resources(LOG) == {"_Zk": Resources(255, 4096, 328, 332), "_Zl": Resources(30, 0, 0, 0)}


def test_a_log_without_registers_is_an_error():
    with pytest.raises(ToolError, match="_Zk"):
        resources("ptxas info    : Compiling entry function '_Zk' for 'sm_80'\n")


def test_launch_bounds():
    text = (
        ".nv.info\n\tAttribute:\tEIATTR_REGCOUNT\n.nv.info._Za\n\t<0x1>\n"
        "\tAttribute:\tEIATTR_PARAM_CBANK\n\tFormat:\tEIFMT_SVAL\n\tValue:\t0x6 0x140160\n.nv.info._Zb\n"
        "\tAttribute:\tEIATTR_MAX_THREADS\n\tFormat:\tEIFMT_SVAL\n\tValue:\t0x80 0x2 0x1 \n\t<0x12>\n"
    )
    assert launch_bounds(text) == {"_Zb": 256}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void mmk::device::forward<mmk::Half, 64, (mmk::Bias)2>(mmk::Problem, int*)", "forward<Half, 64, (Bias)2>"),
        ("(anonymous namespace)::merge(float*)", "merge"),
        ("merge(void (*)(int))", "merge"),
        ("main_kernel", "main_kernel"),
    ],
)
def test_short_name(name, short):
    assert shorten(name) == short


def test_a_tool_that_is_absent_is_named(tmp_path):
    with pytest.raises(ToolError, match=r"nvdisasm was not found in .*" + tmp_path.name):
        find_tool("nvdisasm", tmp_path)


# ---- the report and comparisons ----

CODE = f".L_x_1:\n{MMA}\n{MMA}\nFADD R1, R1, R2\n@P0 BRA `(.L_x_1)\nEXIT"


def unit(text: str = CODE, name: str = "_Z7forwardv", source: str = "forward.cu", registers: int = 128) -> Unit:
    found = {name: Resources(registers, 0, 0, 0)}
    return Unit(Path(source), 80, 1.23, text_of(text, name), found, {name: 128})


def report(**changes):
    return make_report([unit(**changes)], "13.0.88", [])


def test_report(tmp_path):
    path = tmp_path / "launches.json"
    path.write_text(json.dumps({"^forward$": {"dynamic_shared_bytes": 65536, "least_global_bytes_per_kflop": 7.8}}))
    made = make_report([unit()], "13.0.88", read_launches(path))
    kernel = made["kernels"]["forward"]["sm_80"]
    assert kernel["dynamic_shared_bytes"] == 65536 and kernel["threads"] == 128
    assert kernel["occupancy"] == {"blocks": 2, "warps": 8, "share": 0.125, "limited_by": "shared memory"}
    assert kernel["hot_loop"]["whole"] == {"slots": 4, "work": 2, "share": 0.5, "slots_per_kflop": 0.4883}
    assert made["compile_seconds"] == {"forward.cu": {"sm_80": 1.2}}
    assert "forward" in format_report(made) and "0.49" in format_report(made)


def test_two_private_kernels_of_one_name_are_both_reported():
    made = make_report([unit(), unit(source="backward.cu")], "13.0.88", [])
    assert sorted(made["kernels"]) == ["forward", "forward of backward.cu"]


def test_dynamic_shared_memory_that_is_not_known_is_not_taken_for_none():
    assert "<=4" in format_report(report())


def worse(old, new) -> list[str]:
    return compare(old, new).regressions


def changed(path: str, value, made=None):
    """A report with one figure of its kernel replaced."""
    made = copy.deepcopy(made or report())
    at = made["kernels"]["forward"]["sm_80"]
    *way, last = path.split(".")
    for key in way:
        at = at[key]
    at[last] = value
    return made


def test_the_same_report_has_no_regressions():
    found = compare(report(), report())
    assert found.compared == 1 and not found.regressions and not found.remarks


@pytest.mark.parametrize("figure", ["spill_store_bytes", "spill_load_bytes", "local_accesses"])
def test_a_spill_is_a_regression(figure):
    assert worse(report(), changed(figure, 8)) == [f"forward, sm_80: {figure} 0 -> 8"]
    assert worse(changed(figure, 8), changed(figure, 16)) == [f"forward, sm_80: {figure} 8 -> 16"]
    assert worse(changed(figure, 8), report()) == []


def test_registers_past_a_step_of_occupancy_are_a_regression():
    (text,) = worse(report(registers=128), report(registers=136))
    assert text == "forward, sm_80: registers 128 -> 136, and so blocks of a multiprocessor 4 -> 3"
    assert worse(report(registers=121), report(registers=128)) == []
    assert worse(report(registers=136), report(registers=128)) == []


@pytest.mark.parametrize("part", ["whole", "steady"])
def test_more_slots_are_a_regression(part):
    figure = f"hot_loop.{part}.slots_per_kflop"
    old = changed(figure, 1.0)
    assert worse(old, changed(figure, 1.021)) == [f"forward, sm_80: {part} slots_per_kflop 1.0 -> 1.021"]
    assert worse(old, changed(figure, 1.019)) == []


def test_a_hot_loop_that_is_gone_is_a_regression():
    (text,) = worse(report(), report(text=CODE.replace("@P0 BRA `(.L_x_1)\n", "")))
    assert text == "forward, sm_80: hot loop of 2 matrix instructions -> none"


def test_missing_and_new_kernels_are_remarks():
    old, new = report(), report(name="_Z6decodev")
    found = compare(old, new)
    assert found.remarks == ["forward, sm_80: missing", "decode, sm_80: new"]
    assert not found.regressions and found.compared == 0
    old["kernels"]["forward"]["sm_90"] = old["kernels"]["forward"]["sm_80"]
    assert not compare(old, report()).remarks, "an architecture that was left out of this run is not missing"


def test_under_another_compiler_only_new_spills_count():
    old = report() | {"nvcc": "12.9.86"}
    new = changed("registers", 255, changed("hot_loop.whole.slots_per_kflop", 9.0))
    found = compare(old, new)
    assert not found.regressions
    assert found.remarks == [
        "nvcc is 13.0.88, that of the earlier report 12.9.86: only spills and local accesses are compared"
    ]
    assert worse(old, changed("spill_load_bytes", 4)) == ["forward, sm_80: spill_load_bytes 0 -> 4"]
    assert worse(changed("spill_load_bytes", 4) | {"nvcc": "12.9.86"}, changed("spill_load_bytes", 8)) == []


# ---- nvcc and nvdisasm ----

PRODUCT = r"""
template <int Steps>
__global__ void __launch_bounds__(64) product(const uint4* a, float* out, int n) {
  __shared__ uint4 tile[64];
  float c[4] = {};
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    __syncthreads();
    tile[threadIdx.x] = a[i * 64 + threadIdx.x];
    __syncthreads();
    uint4 f = tile[threadIdx.x ^ 1];
#pragma unroll
    for (int j = 0; j < Steps; ++j)
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                   "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(f.x), "r"(f.y), "r"(f.z), "r"(f.w), "r"(f.x + j), "r"(f.y));
  }
  out[blockIdx.x * 64 + threadIdx.x] = c[0] + c[1] + c[2] + c[3];
}
template __global__ void product<6>(const uint4*, float*, int);
"""


def missing_tool() -> str:
    try:
        toolkit()
        for name in ("nvdisasm", "cuobjdump"):
            find_tool(name)
    except ToolError as error:
        return str(error)
    return ""


@pytest.mark.skipif(bool(missing_tool()), reason=missing_tool())
def test_a_kernel_through_the_command_line(tmp_path):
    source, kept = tmp_path / "product.cu", tmp_path / "kept.json"
    source.write_text(PRODUCT)
    command = [sys.executable, "-m", "tools.machine_code", str(source), "--arch", "80", "120"]

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)

    done = run("--json", kept)
    assert done.returncode == 0, done.stderr
    made = read_kept(kept)
    assert sorted(made["kernels"]) == ["product<6>"]
    for arch in ("sm_80", "sm_120"):
        kernel = made["kernels"]["product<6>"][arch]
        assert kernel["threads"] == 64 and kernel["static_shared_bytes"] == 1024
        assert kernel["spill_store_bytes"] == kernel["spill_load_bytes"] == kernel["local_accesses"] == 0
        loop = kernel["hot_loop"]
        assert loop["work"] == "matrix" and loop["whole"]["work"] == 6
        kflop = 6 * 4.096
        assert loop["global_bytes_per_kflop"] == pytest.approx(512 / kflop, abs=1e-4)
        assert loop["shared_bytes_per_kflop"] == pytest.approx(1024 / kflop, abs=1e-4)
        assert loop["mix"]["matrix"] == round(100 * 6 / loop["whole"]["slots"])

    done = run("--compare", kept)
    assert done.returncode == 0 and "regressions:\nnone" in done.stdout, done.stdout + done.stderr
    source.write_text(PRODUCT.replace("f.x + j", "f.x * j + 7 * i ^ j"))
    done = run("--compare", kept)
    assert done.returncode == 1 and "product<6>, sm_80: whole slots_per_kflop" in done.stdout, done.stdout
    source.write_text("not C++")
    done = run()
    assert done.returncode == 1 and "nvcc" in done.stderr
