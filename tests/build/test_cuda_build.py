"""The CUDA library's build: which toolkit, architectures and flags, what a package gets, and what is linked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.build.test_library import newer_than_the_tag, symbols
from tools import cuda, native
from tools.machine import BuildError

VARIABLES = (
    *("MMKERNELS_CUDA", "MMKERNELS_CUDA_HOME", "CUDA_HOME", "MMKERNELS_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"),
    *("MMKERNELS_NVCC_THREADS", "NVCCFLAGS", "CXX"),
)
KNOWN = "sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 sm_120"


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch, tmp_path):
    """No switch is set, no nvcc is on the PATH, and pip installed none."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/nowhere:/usr/bin:/bin")
    monkeypatch.setattr(cuda, "_pip_nvidia", list)


def fake_toolkit(home: Path, release: str = "13.0", known: str = KNOWN) -> Path:
    """A folder with an nvcc that answers what a build asks of it."""
    nvcc = home / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    listed = "\n".join(known.split())
    nvcc.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "Cuda compilation tools, release {release}, V{release}.1";;\n'
        f'--list-gpu-code) echo "{listed}";; esac\n'
    )
    nvcc.chmod(0o755)
    return nvcc


def test_the_first_toolkit_of_four_places(monkeypatch, tmp_path):
    names = ("own", "home", "path", "pip/nvidia/cu13")
    own, home, path, pip = (fake_toolkit(tmp_path / name) for name in names)
    monkeypatch.setattr(cuda, "_pip_nvidia", lambda: [tmp_path / "pip" / "nvidia"])
    assert cuda.find_toolkit().nvcc == pip
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    assert cuda.find_toolkit().nvcc == path
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert cuda.find_toolkit().nvcc == home
    monkeypatch.setenv("MMKERNELS_CUDA_HOME", str(tmp_path / "own"))
    assert cuda.find_toolkit() == cuda.Toolkit(own, (13, 0))


def test_a_stale_cuda_home_is_passed_over(monkeypatch, tmp_path):
    path = fake_toolkit(tmp_path / "path")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "gone"))
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    assert cuda.find_toolkit().nvcc == path


def test_headers_and_libraries_of_pip(monkeypatch, tmp_path):
    """Older packages have a folder each, which nvcc does not know of."""
    nvidia = tmp_path / "nvidia"
    nvcc = fake_toolkit(nvidia / "cuda_nvcc")
    runtime = nvidia / "cuda_runtime"
    (runtime / "include").mkdir(parents=True)
    (runtime / "lib").mkdir()
    (runtime / "lib" / "libcudart_static.a").touch()
    monkeypatch.setattr(cuda, "_pip_nvidia", lambda: [nvidia])
    expected = cuda.Toolkit(nvcc, (13, 0), [f"-I{runtime / 'include'}"], [f"-L{runtime / 'lib'}"])
    assert cuda.find_toolkit() == expected


@pytest.mark.parametrize(
    ("release", "sentence"),
    [
        ("11.8", "is of CUDA 11.8; CUDA 12.0 or newer is needed"),
        ("unknown", "names no release"),
        (None, "no CUDA toolkit found: set MMKERNELS_CUDA_HOME or CUDA_HOME, put nvcc on the PATH, or install"),
    ],
)
def test_no_such_toolkit(monkeypatch, tmp_path, release, sentence):
    if release is not None:
        fake_toolkit(tmp_path, release)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(BuildError, match=re.escape(sentence)) as error:
        cuda.find_toolkit()
    assert "\n" not in str(error.value)


def test_a_named_toolkit_that_is_not_there(monkeypatch, tmp_path):
    fake_toolkit(tmp_path / "home")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MMKERNELS_CUDA_HOME", str(tmp_path / "gone"))
    with pytest.raises(BuildError, match=r"MMKERNELS_CUDA_HOME is .*gone.* does not exist"):
        cuda.find_toolkit()


# ---- architectures and flags ----


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "8.0 8.6 8.9 9.0 10.0 12.0+PTX"),
        ({"MMKERNELS_CUDA_ARCHS": "9.0"}, "9.0"),
        ({"MMKERNELS_CUDA_ARCHS": "12.0+PTX;8.0 9.0a"}, "8.0 9.0a 12.0+PTX"),
        ({"MMKERNELS_CUDA_ARCHS": "8.0", "TORCH_CUDA_ARCH_LIST": "9.0"}, "8.0"),
        ({"TORCH_CUDA_ARCH_LIST": "7.0 7.5;8.0;9.0+PTX"}, "8.0 9.0+PTX"),
        ({"TORCH_CUDA_ARCH_LIST": "Ampere;Hopper+PTX"}, "8.0 8.6 9.0+PTX"),
    ],
    ids=str,
)
def test_architectures(monkeypatch, tmp_path, environment, expected):
    toolkit = cuda.Toolkit(fake_toolkit(tmp_path), (13, 0))
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert " ".join(cuda.architectures(toolkit)) == expected


def test_an_older_toolkit_leaves_out_what_it_does_not_know(tmp_path):
    toolkit = cuda.Toolkit(fake_toolkit(tmp_path, "12.4", "sm_80 sm_86 sm_89 sm_90"), (12, 4))
    assert cuda.architectures(toolkit) == ["8.0", "8.6", "8.9", "9.0+PTX"]


def test_a_toolkit_that_knows_nothing_new(tmp_path):
    with pytest.raises(BuildError, match=r"names no architecture from 8\.0 on: set MMKERNELS_CUDA_HOME"):
        cuda.architectures(cuda.Toolkit(fake_toolkit(tmp_path, known="sm_52 sm_75"), (13, 0)))


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("MMKERNELS_CUDA_ARCHS", "7.5", "MMKERNELS_CUDA_ARCHS holds 7.5, and the kernels need compute capability 8.0"),
        ("TORCH_CUDA_ARCH_LIST", "7.0 7.5", "TORCH_CUDA_ARCH_LIST is '7.0 7.5', and the kernels need"),
        ("MMKERNELS_CUDA_ARCHS", "sm_90", "MMKERNELS_CUDA_ARCHS holds 'sm_90', expected numbers like 8.0"),
        ("MMKERNELS_CUDA_ARCHS", "9.0+PTXX", "MMKERNELS_CUDA_ARCHS holds '9.0+PTXX', expected numbers like 8.0"),
        (
            "MMKERNELS_CUDA_ARCHS",
            "99.0",
            "MMKERNELS_CUDA_ARCHS holds 99.0, which nvcc 13.0 does not know: choose from 8.0",
        ),
    ],
)
def test_wrong_architectures(monkeypatch, tmp_path, variable, value, sentence):
    monkeypatch.setenv(variable, value)
    with pytest.raises(BuildError, match=re.escape(sentence)):
        cuda.architectures(cuda.Toolkit(fake_toolkit(tmp_path), (13, 0)))


def test_flags(monkeypatch, tmp_path):
    toolkit = cuda.Toolkit(fake_toolkit(tmp_path), (13, 0), ["-I/pip"])
    flags = cuda.nvcc_flags(toolkit, ["8.0", "12.0+PTX"])
    codes = [flag.removeprefix("-gencode=") for flag in flags if flag.startswith("-gencode=")]
    assert codes == [f"arch=compute_{a},code={kind}_{a}" for a, kind in ((80, "sm"), (120, "sm"), (120, "compute"))]
    assert {"-std=c++17", "-O3", "--expt-relaxed-constexpr", "-DMMK_ISA=device", "-I/pip"} <= set(flags)
    assert "--use_fast_math" not in flags and any("-fvisibility=hidden" in flag for flag in flags)
    memory = cuda.job_memory()
    monkeypatch.setenv("MMKERNELS_NVCC_THREADS", "3")
    assert "--threads=3" in cuda.nvcc_flags(toolkit, ["8.0"])
    assert cuda.job_memory() == 3 * memory
    monkeypatch.setenv("MMKERNELS_NVCC_THREADS", "0")
    with pytest.raises(BuildError, match="MMKERNELS_NVCC_THREADS must be a positive integer, got '0'"):
        cuda.nvcc_flags(toolkit, ["8.0"])


def test_the_host_compiler_is_that_of_the_other_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "find_compiler", lambda: ["ccache", "g++-12"])
    toolkit = cuda.Toolkit(fake_toolkit(tmp_path), (13, 0))
    assert cuda.nvcc_command(toolkit) == [str(toolkit.nvcc), "-ccbin", "g++-12"]


# ---- what a package gets ----


@pytest.mark.parametrize("torch_has_cuda", [False, True])
@pytest.mark.parametrize("toolkit", [False, True])
@pytest.mark.parametrize("switch", ["", "0", "1"])
def test_wanted(monkeypatch, tmp_path, torch_has_cuda, toolkit, switch):
    """By itself where torch is a CUDA build and a toolkit is there; the switch decides alone."""
    monkeypatch.setattr(cuda, "torch_folder", lambda: tmp_path / "torch")
    if torch_has_cuda:
        (tmp_path / "torch" / "lib").mkdir(parents=True)
        (tmp_path / "torch" / "lib" / "libtorch_cuda.so").touch()
    if toolkit:
        fake_toolkit(tmp_path / "cuda")
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("MMKERNELS_CUDA", switch)
    assert cuda.wanted() == (switch == "1" if switch else torch_has_cuda and toolkit)


def test_a_switch_that_is_neither(monkeypatch):
    monkeypatch.setenv("MMKERNELS_CUDA", "maybe")
    with pytest.raises(BuildError, match=r"MMKERNELS_CUDA must be 1 .* or 0 .*, got 'maybe'"):
        cuda.wanted()


# ---- the library ----


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """Compiled for one architecture and linked, without a GPU and with whatever torch is here."""
    if shutil.which("nvcc", path=SYSTEM_PATH) is None:
        pytest.skip("nvcc is not installed")
    environment = {**os.environ, "PATH": SYSTEM_PATH, "MMKERNELS_CUDA_ARCHS": "8.0+PTX"}
    output = tmp_path_factory.mktemp("cuda") / native.CUDA_LIBRARY
    command = [sys.executable, str(native.ROOT / "tools" / "native.py"), "cuda", "--output", str(output)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return output


SYSTEM_PATH = os.environ["PATH"]


@pytest.mark.nightly
def test_library_needs_only_torch_and_the_system(library):
    """Not the CUDA runtime, which is inside, nor C++ of torch; and it shows nothing of its own."""
    needed = [name.split("@")[0] for _, name in symbols(library, "-D", "--undefined-only")]
    assert "aoti_torch_get_current_cuda_stream" in needed
    assert not [name for name in needed if re.match(r"cuda[A-Z]|__cuda|cu[A-Z]|_?Py", name)]
    assert not [name for name in needed if re.search(r"\b(at|c10|torch|caffe2)::", name)]
    assert not [name for _, name in symbols(library, "-D", "--defined-only") if "mmkernels" in name]
    text = subprocess.run(["objdump", "-p", str(library)], capture_output=True, text=True, check=True).stdout
    libraries = {name for name in re.findall(r"NEEDED\s+(\S+)", text) if not name.startswith("ld-linux")}
    system = {
        "libstdc++.so.6",
        "libgcc_s.so.1",
        "libm.so.6",
        "libc.so.6",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
    }
    assert libraries <= system | {"libtorch_cpu.so", "libtorch_cuda.so"}
    assert "RPATH" not in text and "RUNPATH" not in text


@pytest.mark.nightly
def test_library_runs_on_old_systems(library):
    """tools/stubs has what the CUDA runtime asks beyond the wheel's tag where it is linked on a newer system."""
    assert not newer_than_the_tag(library)


@pytest.mark.nightly
def test_library_loads_beside_its_stub(library):
    """On a CPU torch the stub is all that it lacks; its schemas are the CPU library's."""
    code = (
        f"import torch, mmkernels; torch.ops.load_library({str(library)!r})\n"
        "for name in ('attention_forward', 'attention_backward'):\n"
        "    packets = (getattr(torch.ops.mmkernels_cpu, name), getattr(torch.ops.mmkernels_cuda, name))\n"
        "    cpu, cuda = (str(packet.default._schema) for packet in packets)\n"
        "    assert cpu.split('(', 1)[1] == cuda.split('(', 1)[1]\n"
        "print(torch.ops.mmkernels_cuda.architectures())"
    )
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(native.ROOT / "build" / "cuda" / "8.0+PTX"),
        "PYTHONPATH": str(native.ROOT),
    }
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "8.0+PTX"
