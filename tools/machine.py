"""What a build asks of the machine: a C++ compiler, ninja, torch's folder, processors and memory, switches.

Whatever is missing or too old is a `BuildError` whose one sentence says what to do.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_TORCH = (2, 10)
OLDEST_COMPILERS = {"GCC": 11, "clang": 14}
GIB = 1 << 30
CONTROL_GROUPS = Path("/sys/fs/cgroup")
# An exception and a string: what is linked when gcc is called instead of g++ does not have them.
PROGRAM = """#include <stdexcept>
#include <string>
int main(int count, char**) {
  if (count > 1) throw std::runtime_error(std::string("probe"));
}
"""


class BuildError(RuntimeError):
    """The native build cannot go on; the text says what is missing."""


def find_compiler() -> list[str]:
    """CXX, or the first of g++, clang++, c++; checked to be new enough, and to make a C++17 program."""
    if os.name == "nt":
        raise BuildError("the C++ library is not built on Windows: set MMKERNELS_NO_NATIVE=1 to install without it")
    command = words("CXX") or [name for name in ("g++", "clang++", "c++") if shutil.which(name)][:1]
    if not command:
        raise BuildError(
            "no C++ compiler found: install g++ 11 or newer, set CXX, or set MMKERNELS_NO_NATIVE=1 to install without "
            "the C++ library"
        )
    name = shlex.join(command)
    told = _compile(command, ["-E", "-P", "-x", "c++", "-"], "__clang_major__ __GNUC__")
    versions = re.findall(r"\d+", told.stdout.splitlines()[-1] if told.stdout.strip() else "")
    kind = "clang" if len(versions) == 2 else "GCC"  # clang defines both, GCC the second alone
    if told.returncode or not versions:
        raise BuildError(f"{name} is not a complete C++ compiler of GCC or clang: set CXX to g++ 11 or newer")
    if int(versions[0]) < (oldest := OLDEST_COMPILERS[kind]):
        raise BuildError(f"{name} is {kind} {versions[0]}; {kind} {oldest} or newer is needed: set CXX to one")
    with tempfile.TemporaryDirectory() as folder:
        options = ["-std=c++17", *words("CXXFLAGS"), "-x", "c++", "-", "-o", str(Path(folder) / "program")]
        made = _compile(command, [*options, *words("LDFLAGS")], PROGRAM)
    if made.returncode:
        found = re.search(r"^.*(error:|undefined reference|cannot find).*$", made.stderr, flags=re.MULTILINE)
        said = found[0] if found else f"status {made.returncode}"
        raise BuildError(
            f"{name}, with CXXFLAGS and LDFLAGS, cannot make a C++17 program ({said}): CXX must be a C++ compiler that "
            "finds its standard library (g++, not gcc)"
        )
    return command


def _compile(command: list[str], options: list[str], source: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*command, *options], input=source, env=english(), capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise BuildError(f"the C++ compiler {command[0]} does not run ({error}): set CXX to another") from error


def find_ninja() -> list[str]:
    if importlib.util.find_spec("ninja") is not None:
        return [sys.executable, "-m", "ninja"]
    if found := shutil.which("ninja"):
        return [found]
    raise BuildError("ninja not found: pip install ninja")


def torch_folder() -> Path:
    """Where torch is installed, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed in the building environment: pip install 'torch>=2.10'")
    version = importlib.metadata.version("torch")
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < OLDEST_TORCH:
        raise BuildError(f"torch {version} is too old to build against: pip install 'torch>=2.10'")
    return Path(spec.origin).parent


# ---- how much at once ----


def jobs(job_memory: float) -> int:
    """How many compilers of so many GiB may run at once."""
    if limit := positive("MAX_JOBS"):
        return limit
    memory = free_memory()
    return max(1, processors() if memory is None else min(processors(), int(memory / (job_memory * GIB))))


def processors() -> int:
    """Those that this process may use, at most as many as its control groups give it the time of."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    times = [int(quota) // int(period) for quota, period in _limits("cpu.max")]
    return max(1, min([count, *times]))


def free_memory() -> int | None:
    """Bytes that are free on this machine, at most what its control groups let this process have; None if unknown."""
    free = re.search(r"MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    allowed = [int(fields[0]) for fields in _limits("memory.max")]
    return min([*([int(free[1]) * 1024] if free else []), *allowed], default=None)


def _limits(file: str) -> Iterator[list[str]]:
    """The fields of a control file in this process's control group and in those above it, where a limit stands there.

    A container sees its own group as the topmost. Without control groups of version 2 there are none.
    """
    own = re.search(r"^0::/(.*)$", _read(Path("/proc/self/cgroup")), flags=re.MULTILINE)
    folder = CONTROL_GROUPS / (own[1] if own else "")
    for group in (folder, *folder.parents):
        fields = _read(group / file).split() if group.is_relative_to(CONTROL_GROUPS) else []
        if fields and fields[0] != "max":
            yield fields


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# ---- switches in the environment ----


def english() -> dict[str, str]:
    """The environment of programs whose messages are read."""
    return {**os.environ, "LC_ALL": "C"}


def is_on(variable: str) -> bool:
    """Whether a switch in the environment says yes."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on")


def positive(variable: str) -> int | None:
    """A number in the environment; None where it is not set."""
    text = os.environ.get(variable, "").strip()
    if text and not (text.isdecimal() and int(text)):
        raise BuildError(f"{variable} must be a positive integer, got {text!r}")
    return int(text) if text else None


def words(variable: str) -> list[str]:
    return shlex.split(os.environ.get(variable, ""))
