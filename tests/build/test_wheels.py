"""tools/wheels.py: what it refuses to call a wheel, and how it measures a build. The wheel itself: test_packages.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import wheels
from tools.machine import BuildError

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
    child = "import time; x = bytearray(200 << 20); time.sleep(1.5); end = time.process_time() + 0.5\n"
    child += "while time.process_time() < end: pass"
    # a grandchild counts too
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    took = wheels._measured(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    assert took["seconds"] > 2
    assert 0.5 < took["processor_seconds"] < 2
    assert 200 << 20 < took["peak_bytes"] < 600 << 20


def test_the_longest_unit(tmp_path):
    for name, lines in (("native", ["0\t9000\t1\ta.o\t1"]), ("cuda/8.0", ["0\t9\t1\tb.o\t2", "9\t29500\t1\tx.so\t3"])):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / ".ninja_log").write_text("\n".join(["# ninja log v7", *lines, ""]))
    assert wheels.longest_unit(tmp_path) == {"longest_unit": "a.o", "longest_unit_seconds": 9.0}


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
