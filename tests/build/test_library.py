"""What the built library asks of torch and the system, and that no instruction set leaks into another's code."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mmkernels import _native
from tools import native

pytestmark = [
    pytest.mark.skipif(not _native.loaded, reason=f"no native library: {_native.why_not_loaded}"),
    pytest.mark.skipif(shutil.which("nm") is None, reason="binutils' nm is not installed"),
]


def symbols(file: Path, *options: str) -> list[tuple[str, str]]:
    """(kind, demangled name) of every symbol."""
    text = subprocess.run(["nm", "-C", *options, str(file)], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^[0-9a-f ]{16} (\w) (.+)$", text, flags=re.M)


def test_torch_is_reached_through_its_c_interface_only():
    needed = [name.split("@")[0] for _, name in symbols(_native.LIBRARY, "-D", "--undefined-only")]
    assert any(name.startswith("aoti_torch_") for name in needed)
    foreign = [
        name for name in needed if re.search(r"\b(at|c10|torch|caffe2)::", name) or name.startswith(("Py", "_Py"))
    ]
    assert not foreign


def test_nothing_of_ours_is_visible():
    """Another library in the process can neither call nor replace our functions."""
    assert not symbols(_native.LIBRARY, "-D", "--defined-only")


def test_kernels_of_one_instruction_set_share_no_function_with_another():
    """A weak function outside its own namespace could be linked in place of the portable one, and then trap."""
    objects = sorted((native.ROOT / "build" / "native").glob("csrc-cpu-*.*.o"))
    if not objects:
        pytest.skip("the objects of the build are not there: the library was built elsewhere")
    assert {path.suffixes[-2][1:] for path in objects} == set(native.isas())
    for path in objects:
        isa = path.suffixes[-2][1:]
        shared = [
            name
            for kind, name in symbols(path)
            if kind in "WVu" and f"mmkernels::{isa}::" not in name and not name.startswith("DW.ref.")
        ]
        assert not shared, f"{path.name}: {shared}"


def newer_than_the_tag(library: Path) -> list[str]:
    """Versions that a library asks of the system beyond what manylinux_2_28, the wheel's tag, allows."""
    text = subprocess.run(["objdump", "-T", str(library)], capture_output=True, text=True, check=True).stdout
    newest = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}
    asked = set(re.findall(r"\((GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)\)", text))
    assert asked
    return [f"{name}_{version}" for name, version in asked if tuple(map(int, version.split("."))) > newest[name]]


def test_library_runs_on_old_systems():
    """csrc/ops/older_systems.cpp has what newer headers ask beyond the tag."""
    assert not newer_than_the_tag(_native.LIBRARY)


def test_library_needs_no_new_system_libraries():
    text = subprocess.run(["objdump", "-p", str(_native.LIBRARY)], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED\s+(\S+)", text))
    system = {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "libpthread.so.0"}
    assert {name for name in needed if not name.startswith("ld-linux")} <= system | {"libtorch_cpu.so"}
    assert "RPATH" not in text and "RUNPATH" not in text, "the folder of the building machine's torch is in the library"
