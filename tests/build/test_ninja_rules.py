"""The ninja rules of a build, and the sentence it says when a compiler fails."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tools import machine, native, ninja_rules
from tools.ninja_rules import Build


def test_the_rules_of_a_mixed_build(tmp_path):
    """`.cu` by nvcc, `.cpp` by the compiler, linked by nvcc against the stub."""
    build = Build(tmp_path, tmp_path / "x.so", ["-shared"], nvcc=["nvcc"], stubs=[Path("libs.so.1.cpp")])
    build.add(native.ROOT / "csrc" / "cuda" / "launch" / "device.cu", ["-a"])
    build.add(native.ROOT / "csrc" / "ops" / "cuda" / "attention.cpp", ["-b"])
    rules = build.ninja(["g++"])
    assert "build csrc-cuda-launch-device.o: nvcc " in rules and "build csrc-ops-cuda-attention.o: compile " in rules
    assert re.search(r"command = nvcc -o \$out \$in \$flags", rules)
    assert "link csrc-cuda-launch-device.o csrc-ops-cuda-attention.o libs.so\n" in rules
    assert "build libs.so: stub libs.so.1.cpp\n  soname = libs.so.1\n" in rules


@pytest.mark.skipif(not native.X86, reason="elsewhere vec16 is no test double")
def test_a_wheel_has_no_test_doubles():
    whole, published = native.library(), native.library(for_wheel=True)
    left_out = [each for each in whole.compiles if each not in published.compiles]
    assert {name.split(".")[-2] for name, *_ in left_out if "dispatch" not in name} == {"vec16"}
    (dispatch,) = (flags for name, _, flags in published.compiles if name == "csrc-cpu-dispatch.o")
    assert "-DMMK_HAS_avx512" in dispatch and "-DMMK_HAS_vec16" not in dispatch


@pytest.fixture
def small(tmp_path, monkeypatch) -> Build:
    """A library of one file, in a folder whose name ninja and the shell have to be told with care."""
    folder = tmp_path / "a $b"
    folder.mkdir()
    monkeypatch.setattr(ninja_rules, "ROOT", folder)
    (folder / "one.cpp").write_text("int one() { return ANSWER; }\n")
    build = Build(folder / "build", folder / "one.so", ["-shared"])
    build.add(folder / "one.cpp", ["-fPIC", "-DANSWER='\\x31'"])
    return build


def test_a_build_in_a_folder_with_an_odd_name(small):
    assert small.run().read_bytes().startswith(b"\x7fELF")


@pytest.mark.parametrize("named", [False, True], ids=["found", "in CXX"])
def test_ccache_is_used_where_it_is_there(small, tmp_path, monkeypatch, named):
    """Once for each object, and never twice where CXX names it too; linking needs no cache."""
    log = tmp_path / "log"
    ccache = tmp_path / "bin" / "ccache"
    ccache.parent.mkdir()
    ccache.write_text(f'#!/bin/sh\necho "$1 $*" >> {log}\nexec "$@"\n')
    ccache.chmod(0o755)
    monkeypatch.setenv("PATH", str(ccache.parent), prepend=":")
    compiler = shutil.which("g++") or pytest.skip("g++ is not installed")
    monkeypatch.setenv("CXX", f"ccache {compiler}" if named else compiler)
    small.run()
    compiled = [line for line in log.read_text().splitlines() if " -c " in line]
    assert len(compiled) == 1 and compiled[0].startswith(f"{compiler} "), compiled


# ---- how a build says what went wrong ----


def failed(tmp_path: Path, monkeypatch, printed: str, status: int = 1) -> str:
    """The sentence of a build whose ninja prints this and fails."""
    build = Build(tmp_path / "build", tmp_path / "x.so", [], job_memory=2.5)
    monkeypatch.setenv("MAX_JOBS", "3")
    monkeypatch.setattr(ninja_rules, "find_compiler", lambda: ["g++"])
    code = f"print({printed!r}); exit({status})"
    monkeypatch.setattr(ninja_rules, "find_ninja", lambda: [sys.executable, "-c", code])
    with pytest.raises(machine.BuildError) as error:
        build.run()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "printed",
    [
        "g++: fatal error: Killed signal terminated program cc1plus",
        "c++: internal compiler error: Killed (program cc1plus)",
        "cc1plus: out of memory allocating 65536 bytes",
        "virtual memory exhausted: Cannot allocate memory",
        "clang++: error: unable to execute command: Killed",
        "nvcc error   : 'cicc' died due to signal 9 (Kill signal)",
        "ptxas fatal   : Memory allocation failure",
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ],
)
def test_a_compiler_out_of_memory(tmp_path, monkeypatch, printed):
    sentence = failed(tmp_path, monkeypatch, printed)
    assert sentence.startswith("a compiler ran out of memory, of 3 at a time that may take 2.5 GiB each: set MAX_JOBS")


@pytest.mark.parametrize(
    ("printed", "sentence"),
    [
        ("#error -- unsupported GNU version! gcc versions later than 15 are not supported!", "set CXX to an older one"),
        ("#error -- unsupported clang version! clang version must be less than 21", "set CXX to an older one"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_80a'", "an architecture that MMKERNELS_CUDA_ARCHS"),
        ("x.cuh:1:10: fatal error: cuda_fp16.h: No such file or directory", "the CUDA toolkit lacks headers"),
        ("cuda_fp16.hpp:2:10: fatal error: nv/target: No such file or directory", "the CUDA toolkit lacks headers"),
        ("/tmp/a.s: fatal error: error writing to /tmp/a.o: No space left on device", "the disk is full: make room in"),
        ("error: expected ';' // not out of anything", "failed with status 1; its output stands above"),
    ],
)
def test_other_failures(tmp_path, monkeypatch, capfd, printed, sentence):
    assert sentence in failed(tmp_path, monkeypatch, printed)
    assert printed in capfd.readouterr().err
