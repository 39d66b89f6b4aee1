"""tools/wheels.py: what it refuses to call a wheel, and how it measures a build. The wheel itself: test_packages.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import ninja_rules, wheels
from tools.ninja_rules import BuildError

NAME = f"mmkernels-0.1.0-cp310-abi3-{wheels.PLATFORM}_x86_64.whl"


def made(folder: Path, name: str, *files: str) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.writestr(f"mmkernels/{file}", "")
    return path


@pytest.fixture
def audited(monkeypatch) -> list[list[str]]:
    """The commands of the auditing programs, which are not run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(wheels, "_tool", lambda name: [name])
    monkeypatch.setattr(wheels, "_run", lambda command, **options: commands.append(command))
    return commands


@pytest.mark.parametrize("libraries", [["_C.abi3.so"], ["_C.abi3.so", "_cuda.abi3.so"]])
def test_every_library_is_audited(tmp_path, audited, libraries):
    wheels.check(made(tmp_path, NAME, *libraries))
    assert [command[0] for command in audited] == ["abi3audit", *["torch-abi-audit"] * len(libraries)]
    assert [Path(command[-1]).name for command in audited[1:]] == libraries


@pytest.mark.parametrize(
    ("name", "files", "sentence"),
    [
        ("mmkernels-0.1.0-cp310-abi3-linux_x86_64.whl", ["_C.abi3.so"], "is not tagged cp310-abi3-manylinux_2_28"),
        ("mmkernels-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl", ["_C.abi3.so"], "is not tagged"),
        (NAME, [], "holds [], expected _C.abi3.so"),
        (NAME, ["_C.abi3.so", "libtorch_cpu.so"], "holds ['_C.abi3.so', 'libtorch_cpu.so'], expected"),
    ],
)
def test_wheels_that_are_refused(tmp_path, audited, name, files, sentence):
    with pytest.raises(BuildError, match=re.escape(sentence)):
        wheels.check(made(tmp_path, name, *files))


def test_a_wheel_that_is_too_large(tmp_path, audited, monkeypatch):
    monkeypatch.setattr(wheels, "LARGEST", 10)
    with pytest.raises(BuildError, match="more than"):
        wheels.check(made(tmp_path, NAME, "_C.abi3.so"))


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BuildError, match=r"auditwheel is not installed: pip install '\.\[release\]'"):
        wheels._tool("auditwheel")


def test_time_and_memory_of_what_is_run():
    child = "import time; x = bytearray(200 << 20); time.sleep(1.5)"
    # a grandchild counts too
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    seconds, peak = wheels._measured(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    assert seconds > 1.5
    assert 200 << 20 < peak < 600 << 20


# ---- how a build says what went wrong ----


@pytest.mark.parametrize(
    "line",
    [
        "g++: fatal error: Killed signal terminated program cc1plus",
        "c++: internal compiler error: Killed (program cc1plus)",
        "cc1plus: out of memory allocating 65536 bytes",
        "virtual memory exhausted: Cannot allocate memory",
    ],
)
def test_a_compiler_out_of_memory(tmp_path, monkeypatch, line):
    build = ninja_rules.Build(tmp_path / "build", tmp_path / "x.so", [], job_memory=2.5)
    monkeypatch.setattr(ninja_rules, "find_compiler", lambda: ["g++"])
    monkeypatch.setattr(ninja_rules, "find_ninja", lambda: [sys.executable, "-c", f"print({line!r}); exit(1)"])
    with pytest.raises(BuildError, match=r"a compiler ran out of memory \(each may take 2.5 GiB\): set MAX_JOBS"):
        build.run()


def test_another_failure_is_not_called_so(tmp_path, monkeypatch, capfd):
    build = ninja_rules.Build(tmp_path / "build", tmp_path / "x.so", [])
    monkeypatch.setattr(ninja_rules, "find_compiler", lambda: ["g++"])
    monkeypatch.setattr(ninja_rules, "find_ninja", lambda: [sys.executable, "-c", "print('error: x'); exit(3)"])
    with pytest.raises(BuildError, match="failed with status 3"):
        build.run()
    assert "error: x" in capfd.readouterr().err


@pytest.mark.parametrize(("version", "refused"), [("2.9.1", True), ("2.10.0", False), ("3.0.0+cpu", False)])
def test_an_older_torch_is_refused(monkeypatch, version, refused):
    monkeypatch.setattr(ninja_rules.importlib.metadata, "version", lambda name: version)
    if refused:
        with pytest.raises(BuildError, match=r"torch 2\.9\.1 is too old to build against: 2\.10 or newer"):
            ninja_rules.torch_folder()
    else:
        assert ninja_rules.torch_folder().is_dir()


@pytest.mark.parametrize(("version", "refused"), [("10.2.1", True), ("11.4.0", False)])
def test_an_older_compiler_is_refused(monkeypatch, tmp_path, version, refused):
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = -dumpfullversion ] && echo {version} || echo "g++ (GCC) {version}"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    if refused:
        with pytest.raises(BuildError, match=r"is GCC 10\.2\.1; GCC 11 or newer is needed"):
            ninja_rules.find_compiler()
    else:
        assert ninja_rules.find_compiler() == [str(compiler)]


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found: install g\+\+ 11 or newer, or set CXX"):
        ninja_rules.find_compiler()


def test_import_is_light():
    """Nothing heavy beside torch; how many milliseconds it adds is printed by tests/build/installed.py."""
    heavy = ["triton", "transformers", "diffusers", "matplotlib", "rich", "PIL", "safetensors", "tokenizers"]
    code = (
        "import sys, torch; before = set(sys.modules); import mmkernels\n"
        f"print([name for name in {heavy} if name in set(sys.modules) - before])"
    )
    environment = {**os.environ, "PYTHONPATH": str(wheels.ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
