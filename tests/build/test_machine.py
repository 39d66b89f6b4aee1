"""What a build asks of the machine, and the sentence it says when the machine has it not."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tools import machine
from tools.machine import BuildError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for variable in ("CXX", "CXXFLAGS", "LDFLAGS", "MAX_JOBS"):
        monkeypatch.delenv(variable, raising=False)


def fake_compiler(folder: Path, told: str, makes: str = "exit 0") -> str:
    """A compiler that tells its version as a preprocessor does, and makes no program."""
    compiler = folder / "g++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-E*) echo "{told}";; *) {makes};; esac\n')
    compiler.chmod(0o755)
    return str(compiler)


def test_a_compiler_of_this_machine():
    assert machine.find_compiler() in (["g++"], ["clang++"], ["c++"])


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BuildError, match=r"no C\+\+ compiler found: install g\+\+ 11 or newer, set CXX, or set MMKERNELS_NO"
    ):
        machine.find_compiler()


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ("__clang_major__ 10", "is GCC 10; GCC 11 or newer is needed: set CXX to one"),
        ("__clang_major__ 11", None),
        ("13 4", "is clang 13; clang 14 or newer is needed: set CXX to one"),
        ("14 4", None),
        ("", "is not a complete C++ compiler of GCC or clang: set CXX to g++ 11 or newer"),
        ("__clang_major__ __GNUC__", "is not a complete C++ compiler of GCC or clang"),
    ],
)
def test_which_compilers_are_refused(monkeypatch, tmp_path, told, sentence):
    monkeypatch.setenv("CXX", compiler := fake_compiler(tmp_path, told))
    if sentence is None:
        assert machine.find_compiler() == [compiler]
    else:
        with pytest.raises(BuildError, match=re.escape(f"{compiler} {sentence}")):
            machine.find_compiler()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("CXX", "no-such-compiler", "the C++ compiler no-such-compiler does not run"),
        ("CXX", "gcc", "gcc, with CXXFLAGS and LDFLAGS, cannot make a C++17 program"),
        ("CXXFLAGS", "-no-such-flag", "-no-such-flag"),
        ("LDFLAGS", "-lno_such_library", "-lno_such_library"),
    ],
)
def test_a_compiler_that_cannot_make_a_program(monkeypatch, variable, value, sentence):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    monkeypatch.setenv(variable, value)
    with pytest.raises(BuildError, match=re.escape(sentence)) as error:
        machine.find_compiler()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("version", "refused"), [("2.9.1", True), ("2.10.0", False), ("3.0.0+cpu", False)])
def test_an_older_torch_is_refused(monkeypatch, version, refused):
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: version)
    if refused:
        with pytest.raises(BuildError, match=r"torch 2\.9\.1 is too old to build against: pip install 'torch>=2\.10'"):
            machine.torch_folder()
    else:
        assert machine.torch_folder().is_dir()


# ---- how much at once ----


def control_groups(monkeypatch, folder: Path, **files: str) -> None:
    """This process is in the group a/b of a machine with 64 processors; `files` are of group a, named memory_max."""
    monkeypatch.setattr(machine, "CONTROL_GROUPS", folder)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    (folder / "a" / "b").mkdir(parents=True)
    for name, text in files.items():
        (folder / "a" / name.replace("_", ".")).write_text(f"{text}\n")
        (folder / "a" / "b" / name.replace("_", ".")).write_text("max 100000\n")
    told = {"/proc/self/cgroup": "1:name=systemd:/\n0::/a/b\n", "/proc/meminfo": "MemAvailable:  67108864 kB\n"}
    read = machine._read
    monkeypatch.setattr(machine, "_read", lambda path: told.get(str(path)) or read(path))


@pytest.mark.parametrize(
    ("files", "job_memory", "expected"),
    [
        ({}, 1.0, 64),
        ({}, 4.0, 16),
        ({"cpu_max": "250000 100000"}, 1.0, 2),
        ({"cpu_max": "50000 100000"}, 1.0, 1),
        ({"memory_max": str(8 << 30)}, 1.5, 5),
        ({"memory_max": str(1 << 30)}, 1.5, 1),
        ({"memory_max": str(1 << 40)}, 4.0, 16),
    ],
)
def test_jobs_by_processors_and_memory(monkeypatch, tmp_path, files, job_memory, expected):
    """A container's limits count, not the size of the machine it is on."""
    control_groups(monkeypatch, tmp_path, **files)
    assert machine.jobs(job_memory) == expected


def test_jobs_as_they_are_set(monkeypatch, tmp_path):
    control_groups(monkeypatch, tmp_path, cpu_max="100000 100000")
    monkeypatch.setenv("MAX_JOBS", "7")
    assert machine.jobs(100.0) == 7
    for wrong in ("many", "0", "-1", "1.5"):
        monkeypatch.setenv("MAX_JOBS", wrong)
        with pytest.raises(BuildError, match=f"MAX_JOBS must be a positive integer, got '{wrong}'"):
            machine.jobs(1.0)


def test_this_machine():
    """Whatever it is."""
    memory = machine.free_memory()
    assert memory is None or memory > 64 << 20
    assert 1 <= machine.processors() <= (os.cpu_count() or 1)
