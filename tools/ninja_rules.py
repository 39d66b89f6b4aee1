"""The ninja rules of one library, and what every build asks of the machine: compiler, ninja, torch's folder, memory."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_TORCH = (2, 10)
GIB = 1 << 30
# What compilers and the kernel's killer of processes print.
OUT_OF_MEMORY = (
    r"out of memory|virtual memory exhausted|cannot allocate memory|bad_alloc"
    r"|killed (signal|\(program)|signal 9|^killed$"
)


class BuildError(RuntimeError):
    """The native build cannot go on; the text says what is missing."""


@dataclass
class Build:
    """One build.ninja: objects and the one library they are linked into."""

    folder: Path
    output: Path
    link: list[str]
    nvcc: list[str] = field(default_factory=list)
    """Compiles `.cu` files, and links where it is there."""
    compiles: list[tuple[str, Path, list[str]]] = field(default_factory=list)
    """Object name, source, flags."""
    stubs: dict[str, Path] = field(default_factory=dict)
    """Libraries to link against that need not be on this machine: name, source of the symbols that are used of it."""
    job_memory: float = 1.5
    """GiB that one compiler may take."""

    def add(self, source: Path, flags: list[str], isa: str = "") -> None:
        name = str(source.relative_to(ROOT).with_suffix("")).replace("/", "-")
        self.compiles.append((f"{name}.{isa}.o" if isa else f"{name}.o", source, flags))

    def ninja(self, compiler: list[str]) -> str:
        launcher = [found] if (found := shutil.which("ccache")) else []
        lines = [
            "ninja_required_version = 1.8",
            *_compile_rule("compile", [*launcher, *compiler]),
            *(_compile_rule("nvcc", [*launcher, *self.nvcc]) if self.nvcc else []),
            "rule link",
            f"  command = {shlex.join(self.nvcc or compiler)} -o $out $in $flags",
            "  description = link $out",
        ]
        for name, source, flags in self.compiles:
            rule = "nvcc" if source.suffix == ".cu" else "compile"
            lines += [f"build {name}: {rule} {_escape(source)}", f"  flags = {_quote(flags)}"]
        if self.stubs:
            command = f"{shlex.join(compiler)} -shared -fPIC -nostdlib -Wl,-soname,$out -o $out $in"
            lines += ["rule stub", f"  command = {command}", "  description = stub $out"]
        lines += [f"build {name}: stub {_escape(source)}" for name, source in self.stubs.items()]
        inputs = " ".join([*(name for name, _, _ in self.compiles), *self.stubs])
        lines += [f"build {_escape(self.output)}: link {inputs}", f"  flags = {_quote(self.link)}"]
        return "\n".join([*lines, f"default {_escape(self.output)}", ""])

    def run(self, verbose: bool = False) -> Path:
        """Bring the output up to date and return it."""
        text = self.ninja(find_compiler())
        verbose = verbose or is_on("MMKERNELS_VERBOSE")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):
            rules = self.folder / "build.ninja"
            if not rules.exists() or rules.read_text() != text:
                rules.write_text(text)
            command = [*find_ninja(), "-C", str(self.folder), "-j", str(jobs(self.job_memory))]
            status, printed = _show([*command, *(["-v"] if verbose else ["--quiet"])])
        if status and re.search(OUT_OF_MEMORY, printed, flags=re.IGNORECASE | re.MULTILINE):
            raise BuildError(
                f"a compiler ran out of memory (each may take {self.job_memory:g} GiB): set MAX_JOBS to fewer at a time"
            )
        if status:
            raise BuildError(f"{shlex.join(command)} failed with status {status}; its output stands above")
        return self.output


def _show(command: list[str]) -> tuple[int, str]:
    """Runs a command whose output goes on to ours as it comes; its status and what it printed."""
    printed = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            printed.append(line)
    return run.returncode, "".join(printed)


def _compile_rule(name: str, command: list[str]) -> list[str]:
    return [
        f"rule {name}",
        f"  command = {shlex.join(command)} $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        f"  description = {name} $out",
    ]


def find_compiler() -> list[str]:
    """CXX, or the first of g++, clang++, c++; checked to be new enough."""
    named = words("CXX")
    command = named or [name for name in ("g++", "clang++", "c++") if shutil.which(name)][:1]
    if not command:
        raise BuildError("no C++ compiler found: install g++ 11 or newer, or set CXX")
    try:
        told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        version = subprocess.run([*command, "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"the C++ compiler {shlex.join(command)} does not run: {error}") from error
    if "clang" not in told and version and int(version.split(".")[0]) < 11:
        raise BuildError(f"{shlex.join(command)} is GCC {version}; GCC 11 or newer is needed")
    return command


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
        raise BuildError("torch is not installed in the building environment (see docs/building.md)")
    version = importlib.metadata.version("torch")
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < OLDEST_TORCH:
        raise BuildError(f"torch {version} is too old to build against: 2.10 or newer is needed")
    return Path(spec.origin).parent


def jobs(job_memory: float = 1.5) -> int:
    """How many compilers of so many GiB may run at once."""
    if limit := os.environ.get("MAX_JOBS"):
        if not limit.isdigit() or int(limit) < 1:
            raise BuildError(f"MAX_JOBS must be a positive integer, got {limit!r}")
        return int(limit)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        free = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        free = None
    return max(1, min(processors, int(int(free[1]) * 1024 / (job_memory * GIB)) if free else processors))


def is_on(variable: str) -> bool:
    """Whether a switch in the environment says yes."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on")


def words(variable: str) -> list[str]:
    return shlex.split(os.environ.get(variable, ""))


def _escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _quote(flags: list[str]) -> str:
    return shlex.join(flags).replace("$", "$$")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Parallel test workers must not run ninja in one folder at the same time."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
