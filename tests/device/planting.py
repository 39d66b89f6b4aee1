"""Sources with a bug planted in them, built and run: the emulator's forward kernels of fp16 and head dim 64, and PTX.

A bug is a change of text in a copy of csrc, made under build/ and compiled in its place. What was built is kept by the
content of everything it was built from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.device.compile import ptx_of
from tools import native
from tools.ninja_rules import ROOT, find_compiler

FOLDER = ROOT / "build" / "planted"
EMULATOR = ROOT / "tests" / "device" / "emulator"
KERNEL = ROOT / "tests" / "device" / "emulator_planted" / "one_kernel.cpp"
PRIMITIVES = ROOT / "tests" / "device" / "primitives.cu"
LINKED = ("machine_binding", "attention_arrays", *(f"machine-{path.stem}" for path in EMULATOR.glob("machine/*.cpp")))
"""What of the emulator no bug changes: its objects as the emulator's build left them."""


@dataclass(frozen=True)
class Bug:
    """One change of the text of a file of csrc/cuda."""

    file: str
    old: str
    new: str
    times: int = 1
    """How often `old` stands in the file; all of them are replaced."""

    def apply(self, text: str) -> str:
        """The changed text."""
        found = text.count(self.old)
        assert found == self.times, f"{self.file} has {self.old!r} {found} times, expected {self.times}"
        changed = text.replace(self.old, self.new)
        assert changed != text, f"{self.old!r} is replaced by itself"
        return changed


@contextmanager
def planted_sources(bug: Bug | None) -> Iterator[Path]:
    """A copy of csrc, as far as device code needs it, with the bug."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        csrc = Path(folder) / "csrc"
        for part in ("core", "cuda"):
            shutil.copytree(ROOT / "csrc" / part, csrc / part)
        if bug is not None:
            path = csrc / "cuda" / bug.file
            path.write_text(bug.apply(path.read_text()))
        yield csrc


def planted_kernel(bug: Bug | None) -> ModuleType:
    """The module mmk_planted (emulator_planted/one_kernel.cpp) of the sources with the bug; the emulator is built."""
    with planted_sources(bug) as csrc:
        path = _module(csrc)
    # pybind11 makes a module of a name once, whatever its file
    spec = importlib.util.spec_from_file_location(f"{path.stem}.mmk_planted", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planted_primitives(bug: Bug, arch: int = 80) -> str:
    """The PTX of primitives.cu over the sources with the bug."""
    with planted_sources(bug) as csrc:
        return ptx_of(PRIMITIVES, arch, include=(csrc / "cuda", csrc))


def _module(csrc: Path) -> Path:
    build = native.emulator()
    flags = next(flags for _, source, flags in build.compiles if source.name == "attention.cpp")
    # A bug may leave a variable unused: no warning is an error here, whatever CXXFLAGS asks of the sources.
    flags = [f"-I{csrc}" if flag == f"-I{ROOT / 'csrc'}" else flag for flag in flags if flag != "-Werror"]
    objects = [build.folder / f"tests-device-emulator-{name}.o" for name in LINKED]
    command = [*find_compiler(), *flags, "-O1", str(KERNEL), *map(str, objects), *build.link]
    key = hashlib.sha256("\0".join(command).replace(str(csrc), "csrc").encode())
    for folder in (csrc, EMULATOR, KERNEL.parent):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            key.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    kept = FOLDER / f"{key.hexdigest()[:32]}.so"
    if not kept.exists():
        own = kept.with_suffix(f".{os.getpid()}")
        result = subprocess.run([*command, "-o", str(own)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"the sources with the bug do not compile:\n{result.stderr}"
        own.replace(kept)
    return kept
