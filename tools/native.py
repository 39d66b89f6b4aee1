"""Builds the C++ of this project with ninja: the libraries of the wheel, and the test modules.

    python tools/native.py library [--output FILE] [--sanitize]
    python tools/native.py cuda [--output FILE]
    python tools/native.py tests [--sanitize]
    python tools/native.py emulator [--sanitize]

setup.py calls `library` and `cuda` for wheels and editable installs. Nothing is downloaded, no device is probed, and
torch is not imported: only its headers and libtorch_cpu are used, through torch's stable ABI. The switches in the
environment stand in docs/building.md.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import platform
import sys
import sysconfig
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import cuda
from tools.machine import ROOT, BuildError, torch_folder, words
from tools.ninja_rules import Build

LIBRARY = "_C.abi3.so"
CUDA_LIBRARY = "_cuda.abi3.so"

OLDER_SYSTEMS = Path("csrc") / "ops" / "older_systems.cpp"  # in each library

# Sources of csrc/cpu hold kernels and are compiled once per instruction set, except this one, which picks a set.
COMPILED_ONCE = ("dispatch.cpp",)

AVX512 = [
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    *("-mfma", "-mf16c", "-mprefer-vector-width=512"),
    # GCC raises them in its own intrinsics (bug 105593); clang does not know the first
    *("-Wno-unknown-warning-option", "-Wno-maybe-uninitialized", "-Wno-uninitialized"),
]
X86 = platform.machine().lower() in ("x86_64", "amd64")
X86_ISAS = {
    "baseline": ["-march=x86-64"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": AVX512,
    "avx512bf16": [*AVX512, "-mavx512bf16"],
    # the 16-lane kernels on the compiler's vector extensions: a test double; -O3 takes three times as long to compile
    "vec16": ["-mavx2", "-mfma", "-mf16c", "-O2"],
}
TEST_DOUBLES = ("vec16",) if X86 else ()
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


def library(output: Path | None = None, sanitize: bool = False, for_wheel: bool = False) -> Build:
    """The library: kernels once per instruction set, the rest once for any processor. A wheel has no test doubles."""
    sets = {isa: machine for isa, machine in isas().items() if not (for_wheel and isa in TEST_DOUBLES)}
    flags = [*FLAGS, *(SANITIZED if sanitize else OPTIMISED), *words("CXXFLAGS")]
    includes = [f"-I{ROOT / 'csrc'}", f"-isystem{torch_folder() / 'include'}"]
    build = Build(
        folder=ROOT / "build" / ("native-sanitize" if sanitize else "native"),
        output=(output or ROOT / "mmkernels" / LIBRARY).resolve(),
        link=[
            *("-shared", *_link_rules(LIBRARY), *(SANITIZED if sanitize else [])),
            *(f"-L{torch_folder() / 'lib'}", "-ltorch_cpu", *words("LDFLAGS")),
        ],
    )
    for source in sorted((ROOT / "csrc" / "cpu").rglob("*.cpp")):
        if source.name in COMPILED_ONCE:
            build.add(source, [*flags, *(f"-DMMK_HAS_{isa}" for isa in sets), *includes])
            continue
        for isa, machine in sets.items():
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
    # for speed: what it computes depends on neither; the kernels' many instances compile four times as long at -O3
    machine = [*isas().get("avx2", []), "-O1"]
    for source in sorted(folder.rglob("*.cpp")):
        build.add(
            source,
            [
                *flags,
                *machine,
                f"-I{folder}",
                "-DMMK_ISA=device",
                "-Wno-unknown-pragmas",
                f"-fmacro-prefix-map={ROOT}/=",
            ],
        )
    return build


def _module(name: str, module: str, sanitize: bool) -> tuple[Build, list[str]]:
    """An empty build of a pybind11 module in build/<name>, and the flags of its sources."""
    if importlib.util.find_spec("pybind11") is None:
        raise BuildError("the test modules need pybind11 (pip install '.[test]')")
    import pybind11

    # pybind11 refuses the limited API
    flags = [flag for flag in FLAGS if "Py_LIMITED_API" not in flag]
    flags += [*(SANITIZED if sanitize else OPTIMISED), *words("CXXFLAGS"), f"-I{ROOT / 'csrc'}"]
    flags += [f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_paths()["include"])]
    folder = ROOT / "build" / (f"{name}-sanitize" if sanitize else name)
    build = Build(
        folder=folder,
        output=folder / f"{module}{importlib.machinery.EXTENSION_SUFFIXES[0]}",
        link=["-shared", *(SANITIZED if sanitize else []), *words("LDFLAGS")],
    )
    return build, flags


def cuda_library(output: Path | None = None) -> Build:
    """The library of GPU kernels: the launch layer by nvcc, which sees nothing of torch, and the ops by the compiler.

    It builds without a GPU and without a CUDA torch. What the ops need of libtorch_cuda, and the CUDA runtime of old
    versions of glibc, comes from stubs while it is linked.
    """
    toolkit = cuda.find_toolkit()
    architectures = cuda.architectures(toolkit)
    output = (output or ROOT / "mmkernels" / CUDA_LIBRARY).resolve()
    link = ["-shared", "-cudart", "static", *toolkit.link_flags]
    link += [f"-Xlinker={flag.removeprefix('-Wl,')}" for flag in _link_rules(CUDA_LIBRARY)]
    link += [f"-L{torch_folder() / 'lib'}", "-ltorch_cpu", *(f"-Xlinker={flag}" for flag in words("LDFLAGS"))]
    build = Build(
        folder=ROOT / "build" / "cuda" / "-".join(architectures),
        output=output,
        link=link,
        nvcc=cuda.nvcc_command(toolkit),
        stubs=[ROOT / "tools" / "stubs" / f"{name}.cpp" for name in _stubs()],
        job_memory=cuda.job_memory(),
    )
    for source in sorted((ROOT / "csrc" / "cuda" / "launch").glob("*.cu")):
        build.add(source, cuda.nvcc_flags(toolkit, architectures))
    if not build.compiles:
        raise BuildError(
            f"no CUDA sources under {ROOT / 'csrc' / 'cuda' / 'launch'}: this is not a complete source tree"
        )
    flags = [
        *FLAGS,
        *OPTIMISED,
        "-DUSE_CUDA",
        f'-DMMK_CUDA_ARCHITECTURES="{" ".join(architectures)}"',
        *words("CXXFLAGS"),
    ]
    includes = [f"-I{ROOT / 'csrc'}", f"-isystem{torch_folder() / 'include'}"]
    for source in (ROOT / OLDER_SYSTEMS, *sorted((ROOT / "csrc" / "ops" / "cuda").glob("*.cpp"))):
        build.add(source, [*flags, *includes])
    return build


def isas() -> dict[str, list[str]]:
    """Instruction sets the kernels are compiled for on this kind of machine, and the flags of each."""
    return X86_ISAS if X86 else OTHER_ISAS


def _stubs() -> tuple[str, ...]:
    """Libraries that the CUDA one is linked against instead of this machine's; tools/stubs has their sources."""
    # elsewhere no function of glibc has an older version than 2.17's, and no wheel is published
    has_older = X86 and platform.libc_ver()[0] == "glibc"
    return ("libtorch_cuda.so", *(("libdl.so.2", "libpthread.so.0", "librt.so.1") if has_older else ()))


def _link_rules(library: str) -> list[str]:
    if sys.platform == "darwin":
        return []
    return [
        *("-Wl,--no-undefined", "-Wl,--allow-shlib-undefined", f"-Wl,-soname,{library}"),
        f"-Wl,--version-script={ROOT / 'tools' / 'library.map'}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["library", "cuda", "tests", "emulator"])
    parser.add_argument("--output", type=Path, help="where the library goes (default: into mmkernels/)")
    parser.add_argument("--sanitize", action="store_true", help="under AddressSanitizer and UBSan; not of cuda")
    parser.add_argument("--verbose", action="store_true", help="show every command")
    args = parser.parse_args()
    try:
        if args.what == "library":
            build = library(args.output, args.sanitize)
        elif args.what == "cuda":
            build = cuda_library(args.output)
        else:
            build = {"tests": tests, "emulator": emulator}[args.what](args.sanitize)
        print(build.run(args.verbose))
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
