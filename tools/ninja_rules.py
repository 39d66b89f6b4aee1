"""The ninja rules of one library, and how a failed build says what went wrong."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.machine import ROOT, BuildError, english, find_compiler, find_ninja, is_on, jobs

# What compilers, linkers and the kernel's killer of processes print, and what it means.
OUT_OF_MEMORY = (
    r"out of memory|virtual memory exhausted|cannot allocate memory|memory allocation failure|std::bad_alloc"
    r"|killed (signal|\(program)|signal 9|\bkilled$"
)
SENTENCES = {
    OUT_OF_MEMORY: "a compiler ran out of memory, of {jobs} at a time that may take {memory:g} GiB each: set "
    "MAX_JOBS to fewer, or give the machine more",
    r"no space left on device": "the disk is full: make room in {folder} and in the temporary folder, or set TMPDIR",
    r"unsupported (gnu|clang) version": "this nvcc is too old for this C++ compiler: set CXX to an older one, or "
    "MMKERNELS_CUDA_HOME to a newer toolkit",
    r"unsupported gpu architecture": "nvcc does not know an architecture that MMKERNELS_CUDA_ARCHS or "
    "TORCH_CUDA_ARCH_LIST names (above): leave it out, or set MMKERNELS_CUDA_HOME to a newer toolkit",
    r"(cuda_|crt/|nv/|cooperative_)[\w./]+: no such file": "the CUDA toolkit lacks headers: install all of it, or with "
    "pip nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-cuda-runtime and nvidia-cuda-cccl, all of one version",
}


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
    stubs: list[Path] = field(default_factory=list)
    """Libraries that stand, while linking, for those of the user's machine: sources, named after the library."""
    job_memory: float = 1.5
    """GiB that one compiler may take."""

    def add(self, source: Path, flags: list[str], isa: str = "") -> None:
        name = str(source.relative_to(ROOT).with_suffix("")).replace("/", "-")
        self.compiles.append((f"{name}.{isa}.o" if isa else f"{name}.o", source, flags))

    def ninja(self, compiler: list[str]) -> str:
        lines = [
            "ninja_required_version = 1.8",
            *_compile_rule("compile", compiler),
            *(_compile_rule("nvcc", self.nvcc) if self.nvcc else []),
            "rule link",
            f"  command = {_quote(self.nvcc or compiler)} -o $out $in $flags",
            "  description = link $out",
        ]
        for name, source, flags in self.compiles:
            rule = "nvcc" if source.suffix == ".cu" else "compile"
            lines += [f"build {name}: {rule} {_escape(source)}", f"  flags = {_quote(flags)}"]
        if self.stubs:
            versions = f"-Wl,--version-script={ROOT / 'tools' / 'stubs' / 'glibc.map'}"
            command = f"{_quote([*compiler, '-shared', '-fPIC', '-nostdlib', versions])} -Wl,-soname,$soname -o $out $in"
            lines += ["rule stub", f"  command = {command}", "  description = stub $out"]
        stubs = {_stub_file(source): source for source in self.stubs}
        for name, source in stubs.items():
            lines += [f"build {name}: stub {_escape(source)}", f"  soname = {source.stem}"]
        inputs = " ".join([*(name for name, _, _ in self.compiles), *stubs])
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
            at_once = jobs(self.job_memory)
            command = [*find_ninja(), "-C", str(self.folder), "-j", str(at_once)]
            status, printed = _show([*command, *(["-v"] if verbose else ["--quiet"])])
        if status:
            for pattern, sentence in SENTENCES.items():
                if re.search(pattern, printed, flags=re.IGNORECASE | re.MULTILINE):
                    raise BuildError(sentence.format(jobs=at_once, memory=self.job_memory, folder=self.folder))
            raise BuildError(f"{shlex.join(command)} failed with status {status}; its output stands above")
        return self.output


def _stub_file(source: Path) -> str:
    """nvcc takes no libdl.so.2, the name under which a library is loaded, but libdl.so, the one for linking."""
    name, suffix, _ = source.stem.partition(".so")
    return name + suffix


def _show(command: list[str]) -> tuple[int, str]:
    """Runs a command whose output goes on to ours as it comes; its status and what it printed."""
    printed = []
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=english(), text=True, errors="replace", **pipes) as run:
        assert run.stdout is not None
        for line in run.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            printed.append(line)
    return run.returncode, "".join(printed)


def _compile_rule(name: str, command: list[str]) -> list[str]:
    """Through ccache, where it is on the PATH and CXX does not name it already."""
    found = shutil.which("ccache")
    launcher = [found] if found and Path(command[0]).name != "ccache" else []
    return [
        f"rule {name}",
        f"  command = {_quote([*launcher, *command])} $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        f"  description = {name} $out",
    ]


def _escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _quote(flags: list[str]) -> str:
    return shlex.join(flags).replace("$", "$$")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Parallel test workers must not run ninja in one folder at the same time."""
    import fcntl  # not on Windows, where nothing is built but this module is imported

    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
