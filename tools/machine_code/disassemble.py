"""Runs the tools: nvcc makes a cubin of a translation unit, nvdisasm and cuobjdump say what is in it.

nvcc is the one of a build (tools/cuda.py). nvdisasm and cuobjdump are looked for in the folder that is named, on the
PATH, and in the installed triton package, which brings both along.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools.cuda import DEVICE_FLAGS, Toolkit, find_toolkit
from tools.machine import BuildError

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


class ToolError(RuntimeError):
    """A tool is missing or failed; the text says which, and what it said."""


@dataclass(frozen=True)
class Resources:
    """What ptxas says of a kernel, the functions it calls included."""

    registers: int
    static_shared_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


@dataclass(frozen=True)
class Unit:
    """One translation unit compiled for one architecture; all by mangled name of the kernel."""

    source: Path
    arch: int
    seconds: float
    """Of processor time, which other work on the machine hardly changes."""
    listing: str
    resources: dict[str, Resources]
    launch_bounds: dict[str, int]


def nvcc_flags(arch: int) -> list[str]:
    """How the kernels are compiled for one architecture; paths are relative to the root of the repository."""
    includes = ["-Icsrc/cuda", "-Icsrc"]
    return [*DEVICE_FLAGS, *includes, f"-arch=sm_{arch}"]


def find_tool(name: str, folder: Path | None = None) -> str:
    """Path of a tool: in `folder` if it is given, else on the PATH or in the triton package."""
    if folder is None and (found := shutil.which(name)):
        return found
    places = [folder] if folder else _triton_folders()
    for place in places:
        if found := shutil.which(place / name):
            return found
    where = f"in {folder}" if folder else "on the PATH and in the triton package (pip install triton)"
    raise ToolError(f"{name} was not found {where}")


def toolkit() -> Toolkit:
    """The one that a build would use."""
    try:
        return find_toolkit()
    except BuildError as error:
        raise ToolError(str(error)) from error


def nvcc_version() -> str:
    """Release and build, as in `13.0.88`."""
    told = _run([str(toolkit().nvcc), "--version"]).stdout
    found = re.search(r"\bV(\d+\.\d+\.\d+)", told)
    if not found:
        raise ToolError(f"nvcc --version names no version: {told.strip()}")
    return found[1]


def run_nvcc(arguments: list[str]) -> tuple[str, float]:
    """What nvcc writes, and the seconds that it and its children spent in user mode."""
    kit = toolkit()
    command = [str(kit.nvcc), *arguments, *kit.include_flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read()
    if process.returncode:
        raise ToolError(f"{shlex.join(command)} failed:\n{text.strip()}")
    return text, used.ru_utime


def compile_unit(source: Path, arch: int, flags: list[str], folder: Path, tools: Path | None = None) -> Unit:
    """Compile `source` into `folder` and take its cubin apart."""
    cubin = folder / f"{source.stem}.sm_{arch}.cubin"
    log, seconds = run_nvcc([*flags, "-Xptxas=-v", "-cubin", str(source), "-o", str(cubin)])
    listing = _run([find_tool("nvdisasm", tools), "-c", str(cubin)]).stdout
    sections = _run([find_tool("cuobjdump", tools), "-elf", str(cubin)]).stdout
    return Unit(source, arch, seconds, listing, resources(log), launch_bounds(sections))


def compile_all(sources: list[Path], archs: list[int], folder: Path, jobs: int, tools: Path | None) -> list[Unit]:
    """Every unit for every architecture, `jobs` compilers at a time, in the order of the lists."""
    find_tool("nvdisasm", tools)  # before minutes of compiling, not after
    with ThreadPoolExecutor(jobs) as pool:
        pending = [
            pool.submit(compile_unit, source, arch, nvcc_flags(arch), folder, tools)
            for source in sources
            for arch in archs
        ]
        try:
            return [each.result() for each in pending]
        except ToolError:
            pool.shutdown(cancel_futures=True)
            raise


def resources(log: str) -> dict[str, Resources]:
    """What `ptxas -v` prints, by kernel; bytes spilled in functions that a kernel calls are added to its own."""
    found = {}
    for text in log.split("Compiling entry function '")[1:]:
        name = text.partition("'")[0]
        used = re.search(r"Used (\d+) registers", text)
        shared = re.search(r"(\d+) bytes smem", text)
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", text)
        if not used or not spills:
            raise ToolError(f"ptxas says nothing of the registers or spills of {name}")
        stores, loads = (sum(map(int, column)) for column in zip(*spills))
        found[name] = Resources(int(used[1]), int(shared[1]) if shared else 0, stores, loads)
    return found


def launch_bounds(sections: str) -> dict[str, int]:
    """Threads a block from `__launch_bounds__`, by kernel that has them, out of `cuobjdump -elf`."""
    found = {}
    for text in re.split(r"^\.nv\.info\.", sections, flags=re.M)[1:]:
        name = text.partition("\n")[0].strip()
        block = re.search(r"EIATTR_(?:MAX_THREADS|REQNTID)\s+Format:\s*\w+\s+Value:\s*((?:0x[0-9a-f]+\s+){3})", text)
        if block:
            x, y, z = (int(value, 16) for value in block[1].split())
            found[name] = x * y * z
    return found


def demangled(mangled: list[str]) -> list[str]:
    """C++ names; c++filt comes with every linker that nvcc can use."""
    return _run([find_tool("c++filt")], "\n".join(mangled) + "\n").stdout.splitlines()


def short_names(mangled: list[str]) -> dict[str, str]:
    """C++ names without what a reader can do without."""
    return {old: shorten(new) for old, new in zip(mangled, demangled(mangled))}


def shorten(name: str) -> str:
    """`void a::kernel<a::Half, 64>(float*)` -> `kernel<Half, 64>`: a new parameter does not make another kernel."""
    name = name.strip().removeprefix("void ")
    if name.endswith(")"):
        depth = 0
        for i in range(len(name) - 1, -1, -1):
            depth += {")": 1, "(": -1}.get(name[i], 0)
            if depth == 0:
                name = name[:i]
                break
    return re.sub(r"(?:\(anonymous namespace\)|\w+)::", "", name)


def _triton_folders() -> list[Path]:
    spec = importlib.util.find_spec("triton")
    return (
        [Path(place, "backends", "nvidia", "bin") for place in (spec.submodule_search_locations or [])] if spec else []
    )


def _run(command: list[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, input=given)
    if done.returncode:
        raise ToolError(f"{shlex.join(command)} failed:\n{done.stderr.strip() or done.stdout.strip()}")
    return done
