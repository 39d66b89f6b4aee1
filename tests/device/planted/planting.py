"""Sources with a bug planted in them, built and run: a family of the emulator's kernels of fp16, and PTX.

A bug is a change of text in a copy of csrc, made under build/ and compiled in its place. Only a file of
emulator_planted is compiled anew, which has nothing of Python; it is linked with the objects of the emulator's build.
What was built is kept by the content of everything it was built from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.device.compile import ptx_of
from tools import native
from tools.machine import ROOT, find_compiler

FOLDER = ROOT / "build" / "planted"
DEVICE = ROOT / "tests" / "device"
EMULATOR, KERNELS = DEVICE / "emulator", DEVICE / "emulator_planted"
PRIMITIVES = DEVICE / "primitives.cu"
MACHINE = ("machine_binding", *(f"machine-{path.stem}" for path in EMULATOR.glob("machine/*.cpp")))
"""What of the emulator every module has."""

SEEDS = range(5)
NUMBERS, RACE, OUTSIDE, ISOLATION, BITS = ("numbers",), ("race",), ("bounds",), ("isolation",), ("bits",)


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


@dataclass(frozen=True)
class Planted:
    """A bug of a kernel, the problem that shows it, and the instruments that must see it.

    Instruments of the emulator go by the kind of its error. "numbers" is the tolerance rule, "isolation" the promise
    that values that are not finite change no bit of what does not see them, "bits" the promise that two ways to run a
    problem give the same. Where several are named, thread order and values decide which comes first.
    """

    bug: Bug
    problem: str
    seen_by: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Kernels that share a file of emulator_planted, their problems and their bugs."""

    name: str
    """Of the file."""
    binding: str
    """The function of the emulator's module.h that binds them."""
    objects: tuple[str, ...]
    """What it needs of the emulator's build, besides the machine."""
    problems: Mapping[str, Any]
    bugs: Mapping[str, Planted]
    fault: Callable[[ModuleType, ModuleType, str, int], str]
    """fault(module, emulator, problem, seed): "" or what sees one; `emulator` has the right kernels of all families."""
    macros: Callable[[str], tuple[str, ...]] = lambda problem: ()
    """Which of the kernels a problem needs, as macros of the file."""

    def module(self, problem: str, bug: Bug | None = None) -> ModuleType:
        """The kernels of sources with the bug; the emulator is built."""
        with planted_sources(bug) as csrc:
            path = _module(self, csrc, self.macros(problem))
        # pybind11 makes a module of a name once, whatever its file
        spec = importlib.util.spec_from_file_location(f"{path.stem}.mmk_planted", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def seen(self, emulator: ModuleType, problem: str, bug: Bug | None = None) -> str:
        """The instrument that sees a fault of a problem in any of several thread orders; "" is none."""
        module = self.module(problem, bug)
        for seed in SEEDS:
            try:
                fault = self.fault(module, emulator, problem, seed)
            except module.EmulatorError as error:
                return str(error.kind)
            if fault:
                return fault
        return ""


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


def planted_primitives(bug: Bug, arch: int = 80) -> str:
    """The PTX of primitives.cu over the sources with the bug."""
    with planted_sources(bug) as csrc:
        return ptx_of(PRIMITIVES, arch, include=(csrc / "cuda", csrc))


def _module(family: Family, csrc: Path, macros: tuple[str, ...]) -> Path:
    build = native.emulator()
    flags = next(flags for _, source, flags in build.compiles if source.name == "attention.cpp")
    # A bug may leave a variable unused: no warning is an error here, whatever CXXFLAGS asks of the sources.
    flags = [flag for flag in flags if flag not in ("-Werror", f"-I{ROOT / 'csrc'}")]
    objects = [build.folder / f"tests-device-emulator-{name}.o" for name in (*MACHINE, *family.objects)]
    binding = ["-c", f"-I{ROOT / 'csrc'}", str(KERNELS / "module.cpp"), f"-DPLANTED_BINDING={family.binding}"]
    objects.append(_built("module.o", [*find_compiler(), *flags, *binding], (EMULATOR, KERNELS)))
    kernels = [f"-I{csrc}", str(KERNELS / f"{family.name}.cpp"), *(f"-D{macro}" for macro in macros)]
    command = [*find_compiler(), *flags, *kernels, *map(str, objects), *build.link]
    return _built("so", command, (csrc, EMULATOR, KERNELS), csrc)


def _built(suffix: str, command: list[str], sources: tuple[Path, ...], moved: Path | None = None) -> Path:
    """What a command makes of the files of some folders, of which `moved` may stand anywhere."""
    text = "\0".join(command)
    key = hashlib.sha256((text if moved is None else text.replace(str(moved), "moved")).encode())
    for folder in sources:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            key.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    kept = FOLDER / f"{key.hexdigest()[:32]}.{suffix}"
    if not kept.exists():
        own = kept.with_suffix(f".{os.getpid()}")
        result = subprocess.run([*command, "-o", str(own)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"the sources with the bug do not compile:\n{result.stderr}"
        own.replace(kept)
    return kept
