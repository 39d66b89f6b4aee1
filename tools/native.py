"""Builds the C++ of this project with ninja: the library of the wheel, and the test modules.

    python tools/native.py library [--output FILE] [--sanitize]
    python tools/native.py tests [--sanitize]
    python tools/native.py emulator [--sanitize]

setup.py calls `library` for wheels and editable installs. Nothing is downloaded, no device is probed, and torch is not
imported: only its headers and libtorch_cpu are used, through torch's stable ABI.

Environment: CXX, CXXFLAGS, LDFLAGS; MAX_JOBS bounds the parallel jobs (default: the processors this process may use,
and one per 1.5 GiB of free memory). ccache is used where it is on the PATH.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "_C.abi3.so"
OLDEST_TORCH = (2, 10)
BYTES_PER_JOB = 3 << 29

# Sources of csrc/cpu hold kernels and are compiled once per instruction set, except this one, which picks a set.
COMPILED_ONCE = ("dispatch.cpp",)

AVX512 = [
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    *("-mfma", "-mf16c", "-mprefer-vector-width=512"),
    *("-Wno-maybe-uninitialized", "-Wno-uninitialized"),  # GCC raises them in its own intrinsics (bug 105593)
]
X86_ISAS = {
    "baseline": ["-march=x86-64"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": AVX512,
    "avx512bf16": [*AVX512, "-mavx512bf16"],
    # the 16-lane kernels on the compiler's vector extensions, for machines without AVX-512
    "vec16": ["-mavx2", "-mfma", "-mf16c"],
}
OTHER_ISAS: dict[str, list[str]] = {"baseline": [], "vec16": []}

# No -ffast-math: masked NaN and Inf must stay where they are. No -ffp-contract=fast: which products are fused is
# written out, lest two loops over the same formula differ in a bit.
FLAGS = [
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wall", "-Wextra"),
    "-Wno-psabi",  # vectors wider than the processor's never leave a translation unit
    *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030a0000"),
]
OPTIMISED = ["-O3", "-DNDEBUG"]
SANITIZED = [
    *("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "-fno-sanitize=vptr",  # wants C++ type information that a library of hidden symbols does not share
]


class BuildError(RuntimeError):
    """The native build cannot go on; the text says what is missing."""


@dataclass
class Build:
    """One build.ninja: objects and the one library they are linked into."""

    folder: Path
    output: Path
    link: list[str]
    compiles: list[tuple[str, Path, list[str]]] = field(default_factory=list)
    """Object name, source, flags."""

    def add(self, source: Path, flags: list[str], isa: str = "") -> None:
        name = str(source.relative_to(ROOT).with_suffix("")).replace("/", "-")
        self.compiles.append((f"{name}.{isa}.o" if isa else f"{name}.o", source, flags))

    def ninja(self, compiler: list[str]) -> str:
        launcher = [found] if (found := shutil.which("ccache")) else []
        lines = [
            "ninja_required_version = 1.8",
            "rule compile",
            f"  command = {shlex.join([*launcher, *compiler])} $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $out",
            "rule link",
            f"  command = {shlex.join(compiler)} -o $out $in $flags",
            "  description = link $out",
        ]
        for name, source, flags in self.compiles:
            lines += [f"build {name}: compile {_escape(source)}", f"  flags = {_quote(flags)}"]
        objects = " ".join(name for name, _, _ in self.compiles)
        lines += [f"build {_escape(self.output)}: link {objects}", f"  flags = {_quote(self.link)}"]
        return "\n".join([*lines, f"default {_escape(self.output)}", ""])

    def run(self, verbose: bool = False) -> Path:
        """Bring the output up to date and return it."""
        text = self.ninja(find_compiler())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):
            rules = self.folder / "build.ninja"
            if not rules.exists() or rules.read_text() != text:
                rules.write_text(text)
            command = [*find_ninja(), "-C", str(self.folder), "-j", str(jobs())]
            result = subprocess.run([*command, *(["-v"] if verbose else ["--quiet"])])
        if result.returncode:
            raise BuildError(f"{shlex.join(command)} failed with status {result.returncode}; its output stands above")
        return self.output


def library(output: Path | None = None, sanitize: bool = False) -> Build:
    """The library of the wheel: kernels once per instruction set, the rest once for any processor."""
    flags = [*FLAGS, *(SANITIZED if sanitize else OPTIMISED), *_words("CXXFLAGS")]
    includes = [f"-I{ROOT / 'csrc'}", f"-isystem{torch_folder() / 'include'}"]
    build = Build(
        folder=ROOT / "build" / ("native-sanitize" if sanitize else "native"),
        output=(output or ROOT / "mmkernels" / LIBRARY).resolve(),
        link=[
            *("-shared", *_link_checks(), *(SANITIZED if sanitize else [])),
            *(f"-L{torch_folder() / 'lib'}", "-ltorch_cpu", *_words("LDFLAGS")),
        ],
    )
    for source in sorted((ROOT / "csrc" / "cpu").rglob("*.cpp")):
        if source.name in COMPILED_ONCE:
            build.add(source, [*flags, *includes])
            continue
        for isa, machine in isas().items():
            build.add(source, [*flags, *machine, f"-DMMK_ISA={isa}", *includes], isa)
    for source in sorted((ROOT / "csrc" / "ops").glob("*.cpp")):
        build.add(source, [*flags, *includes])
    if not build.compiles:
        raise BuildError(f"no C++ sources under {ROOT / 'csrc'}: this is not a complete source tree")
    return build


def tests(sanitize: bool = False) -> Build:
    """The pybind11 module of tests/core, on csrc/core and csrc/cpu/simd.h; never part of a wheel."""
    build, flags = _module("tests", "mmk_core_tests", sanitize)
    build.add(ROOT / "tests" / "core" / "module.cpp", flags)
    for isa, machine in isas().items():
        build.add(ROOT / "tests" / "core" / "lanes.cpp", [*flags, *machine, f"-DMMK_ISA={isa}"], isa)
    return build


def emulator(sanitize: bool = False) -> Build:
    """The pybind11 module that runs device code on the host (docs/kernels/emulator.md); never part of a wheel.

    What the device code includes as <ptx/...> is the emulator's own.
    """
    build, flags = _module("emulator", "mmk_emulator", sanitize)
    folder = ROOT / "tests" / "device" / "emulator"
    machine = isas().get("avx2", [])  # for speed: what it computes does not depend on it
    for source in sorted(folder.rglob("*.cpp")):
        build.add(source, [*flags, *machine, f"-I{folder}", "-DMMK_ISA=device", f"-fmacro-prefix-map={ROOT}/="])
    return build


def _module(name: str, module: str, sanitize: bool) -> tuple[Build, list[str]]:
    """An empty build of a pybind11 module in build/<name>, and the flags of its sources."""
    if importlib.util.find_spec("pybind11") is None:
        raise BuildError("the test modules need pybind11 (pip install '.[test]')")
    import pybind11

    # pybind11 refuses the limited API
    flags = [flag for flag in FLAGS if "Py_LIMITED_API" not in flag]
    flags += [*(SANITIZED if sanitize else OPTIMISED), *_words("CXXFLAGS"), f"-I{ROOT / 'csrc'}"]
    flags += [f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_paths()["include"])]
    folder = ROOT / "build" / (f"{name}-sanitize" if sanitize else name)
    build = Build(
        folder=folder,
        output=folder / f"{module}{importlib.machinery.EXTENSION_SUFFIXES[0]}",
        link=["-shared", *(SANITIZED if sanitize else []), *_words("LDFLAGS")],
    )
    return build, flags


def isas() -> dict[str, list[str]]:
    """Instruction sets the kernels are compiled for on this kind of machine, and the flags of each."""
    return X86_ISAS if platform.machine().lower() in ("x86_64", "amd64") else OTHER_ISAS


def find_compiler() -> list[str]:
    """CXX, or the first of g++, clang++, c++; checked to be new enough."""
    named = _words("CXX")
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


def jobs() -> int:
    """How many compilers may run at once."""
    if limit := os.environ.get("MAX_JOBS"):
        if not limit.isdigit() or int(limit) < 1:
            raise BuildError(f"MAX_JOBS must be a positive integer, got {limit!r}")
        return int(limit)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        free = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        free = None
    return max(1, min(processors, int(free[1]) * 1024 // BYTES_PER_JOB if free else processors))


def _link_checks() -> list[str]:
    if sys.platform == "darwin":
        return []
    return ["-Wl,--no-undefined", "-Wl,--allow-shlib-undefined", f"-Wl,-soname,{LIBRARY}"]


def _words(variable: str) -> list[str]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["library", "tests", "emulator"])
    parser.add_argument("--output", type=Path, help="where the library goes (default: into mmkernels/)")
    parser.add_argument("--sanitize", action="store_true", help="under AddressSanitizer and UBSan")
    parser.add_argument("--verbose", action="store_true", help="show every command")
    args = parser.parse_args()
    try:
        if args.what == "library":
            build = library(args.output, args.sanitize)
        else:
            build = {"tests": tests, "emulator": emulator}[args.what](args.sanitize)
        print(build.run(args.verbose))
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
