"""The CUDA toolkit of a build: where it is, for which architectures it compiles, and nvcc's flags. No GPU is probed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tools.machine import ROOT, BuildError, find_compiler, positive, torch_folder, words

OLDEST_TOOLKIT = (12, 0)
OLDEST_ARCHITECTURE = (8, 0)
DEFAULT_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# The names that TORCH_CUDA_ARCH_LIST may hold instead of numbers.
GENERATIONS = {
    "Ampere": ["8.0", "8.6"],
    "Ada": ["8.9"],
    "Hopper": ["9.0"],
    "Blackwell": ["10.0", "12.0"],
}
REMEDY = "set MMKERNELS_CUDA_HOME to another toolkit, or MMKERNELS_CUDA=0 to build without the CUDA library"


@dataclass(frozen=True)
class Toolkit:
    """An nvcc, and what it has to be told because pip puts headers and libraries in folders of their own."""

    nvcc: Path
    version: tuple[int, int]
    include_flags: list[str] = field(default_factory=list)
    link_flags: list[str] = field(default_factory=list)


def wanted() -> bool:
    """Whether a package gets the CUDA library: MMKERNELS_CUDA says so, or torch is a CUDA build with a toolkit."""
    switch = os.environ.get("MMKERNELS_CUDA", "").strip()
    if switch not in ("", "0", "1"):
        raise BuildError(f"MMKERNELS_CUDA must be 1 (build the CUDA library) or 0 (do not), got {switch!r}")
    if switch:
        return switch == "1"
    return (torch_folder() / "lib" / "libtorch_cuda.so").exists() and _find_nvcc() is not None


def find_toolkit() -> Toolkit:
    """The toolkit that is used, checked to be new enough."""
    nvcc = _find_nvcc()
    if nvcc is None:
        raise BuildError(
            "no CUDA toolkit found: set MMKERNELS_CUDA_HOME or CUDA_HOME, put nvcc on the PATH, or install "
            "nvidia-cuda-nvcc and nvidia-cuda-cccl with pip"
        )
    try:
        told = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{nvcc} does not run ({error}): {REMEDY}") from error
    release = re.search(r"release (\d+)\.(\d+)", told)
    if not release:
        raise BuildError(f"{nvcc} --version names no release, as NVIDIA's compiler does: {REMEDY}")
    version = (int(release[1]), int(release[2]))
    if version < OLDEST_TOOLKIT:
        raise BuildError(f"{nvcc} is of CUDA {version[0]}.{version[1]}; CUDA 12.0 or newer is needed: {REMEDY}")
    return Toolkit(nvcc, version, *_pip_folders(nvcc))


def architectures(toolkit: Toolkit) -> list[str]:
    """What to compile for, as "8.0" (machine code) and "12.0+PTX" (and PTX, which newer devices translate)."""
    known = _known_architectures(toolkit)
    variables = ("MMKERNELS_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST")
    variable = next((name for name in variables if os.environ.get(name, "").strip()), None)
    if variable is None:
        default = [name for name in DEFAULT_ARCHITECTURES if name in known]
        return [*default[:-1], f"{default[-1]}+PTX"]
    found: dict[str, bool] = {}  # architecture: with PTX
    for word in re.findall(r"[^\s;,]+", os.environ[variable]):
        name = word.removesuffix("+PTX")
        for number in GENERATIONS.get(name, [name]):
            if not re.fullmatch(r"\d+\.\d[af]?", number):
                names = ", ".join(GENERATIONS)
                raise BuildError(f"{variable} holds {word!r}, expected numbers like 8.0 or 9.0+PTX, or {names}")
            if _number(number) < OLDEST_ARCHITECTURE:
                if variable == "TORCH_CUDA_ARCH_LIST":  # torch's list: torch itself may run there
                    continue
                raise BuildError(f"{variable} holds {number}, and the kernels need compute capability 8.0 or newer")
            if number.rstrip("af") not in known:
                version = "{}.{}".format(*toolkit.version)
                raise BuildError(
                    f"{variable} holds {number}, which nvcc {version} does not know: choose from {', '.join(known)}, "
                    "or set MMKERNELS_CUDA_HOME to another toolkit"
                )
            found[number] = found.get(number, False) or word != name
    if not found:
        text = os.environ[variable]
        raise BuildError(f"{variable} is {text!r}, and the kernels need compute capability 8.0 or newer")
    return [f"{name}+PTX" if ptx else name for name, ptx in sorted(found.items(), key=lambda each: _number(each[0]))]


def nvcc_command(toolkit: Toolkit) -> list[str]:
    """nvcc with the C++ compiler of the other sources as its host compiler."""
    host = [word for word in find_compiler() if Path(word).name != "ccache"]
    return [str(toolkit.nvcc), "-ccbin", host[0]]


# How device code is compiled wherever it is: in the library, for the machine-code report, for the PTX interpreter.
# -fmad=false: which products are fused is written out, lest two kernels over the same formula differ in a bit.
DEVICE_FLAGS = ("-std=c++17", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "-DMMK_ISA=device")


def nvcc_flags(toolkit: Toolkit, architectures: list[str]) -> list[str]:
    """Flags of every .cu file."""
    flags = [*DEVICE_FLAGS, "-DNDEBUG"]
    flags += [f"-I{ROOT / 'csrc' / 'cuda'}", f"-I{ROOT / 'csrc'}", *toolkit.include_flags]
    flags += ["-Xcompiler=-fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden,-Wall,-Wno-psabi", "-cudart", "static"]
    for architecture in architectures:
        name, plus, _ = architecture.partition("+PTX")
        number = name.replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if plus:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return [*flags, f"--threads={threads()}", *words("NVCCFLAGS")]


def threads() -> int:
    """How many architectures one nvcc compiles at a time."""
    return positive("MMKERNELS_NVCC_THREADS") or 1


def job_memory() -> float:
    """GiB that one nvcc may take."""
    return 1.0 * threads()


def _find_nvcc() -> Path | None:
    """MMKERNELS_CUDA_HOME, CUDA_HOME, the PATH, pip's packages, in this order."""
    if named := os.environ.get("MMKERNELS_CUDA_HOME", "").strip():
        nvcc = Path(named) / "bin" / "nvcc"
        if not nvcc.exists():
            raise BuildError(f"MMKERNELS_CUDA_HOME is {named!r}, and {nvcc} does not exist")
        return nvcc
    if home := os.environ.get("CUDA_HOME", "").strip():
        if (nvcc := Path(home) / "bin" / "nvcc").exists():
            return nvcc
    if found := shutil.which("nvcc"):
        return Path(found)
    return next((nvcc for folder in _pip_nvidia() for nvcc in sorted(folder.glob("*/bin/nvcc"))), None)


def _pip_nvidia() -> list[Path]:
    """Where pip's nvidia packages are: each has a folder of its own there, or those of one CUDA version share one."""
    spec = importlib.util.find_spec("nvidia")
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def _pip_folders(nvcc: Path) -> tuple[list[str], list[str]]:
    """Flags for the headers and the runtime of pip's packages where nvcc is one of them."""
    for folder in _pip_nvidia():
        if nvcc.is_relative_to(folder):
            headers = [path for path in sorted(folder.glob("*/include")) if path.is_dir()]
            libraries = sorted({path.parent for path in folder.glob("*/lib/libcudart_static.a")})
            return [f"-I{path}" for path in headers], [f"-L{path}" for path in libraries]
    return [], []


def _known_architectures(toolkit: Toolkit) -> list[str]:
    """What this nvcc compiles for, from 8.0 on."""
    told = subprocess.run([str(toolkit.nvcc), "--list-gpu-code"], capture_output=True, text=True).stdout
    names = [f"{number[:-1]}.{number[-1]}" for number in re.findall(r"sm_(\d+)", told)]
    known = sorted((name for name in set(names) if _number(name) >= OLDEST_ARCHITECTURE), key=_number)
    if not known:
        raise BuildError(f"{toolkit.nvcc} names no architecture from 8.0 on: {REMEDY}")
    return known


def _number(architecture: str) -> tuple[int, int]:
    major, minor = architecture.rstrip("af").split(".")
    return int(major), int(minor)
