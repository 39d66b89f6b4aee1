"""The rules of docs/architecture.md that a program can check: who imports whom, and what stands where in csrc."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mmkernels"
CSRC = ROOT / "csrc"

# From the ground up; a module imports its own floor and the floors below. A package name stands for all inside it.
FLOORS = (
    {
        "_native",
        "_native_cuda",
        "_triton",
        "bias",
        "files",
        "mask",
        "mask_call",
        "mask_dense",
        "mask_parts",
        "mask_resolve",
    },
    {"backend", "layout", "op_rules", "philox", "precision", "routing", "triton_blocks", "triton_launch", "user_tiles"},
    {"ops"},
    {"nn", "distributed", "tuning"},
    {"integrations"},
    {"models"},
    {"cli", "__main__"},
)
# May be imported only inside a function, so that importing the package stays light.
LAZY = {
    "matplotlib", "rich", "tokenizers", "safetensors", "emoji", "resvg_py", "PIL", "transformers", "triton", "torchao",
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports_of(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, imported module) for every import of this package, wherever it stands."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "mmkernels")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            if base.split(".")[0] == "mmkernels":
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield node.lineno, full if full in MODULES else base


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    return next((i for i, rooms in enumerate(FLOORS) if len(parts) > 1 and parts[1] in rooms), None)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "mmkernels"])
def test_imports_run_downward(name):
    own = floor_of(name)
    assert own is not None, f"{name} stands on no floor: give it one in FLOORS and in docs/architecture.md"
    wrong = []
    for line, target in imports_of(name, ast.parse(MODULES[name].read_text())):
        target_floor = floor_of(target)
        room, target_room = (part.split(".")[1:3] for part in (name, target))
        if target_floor is None:
            wrong.append(f"line {line}: {target} is the roof, or on no floor")
        elif target_floor > own:
            wrong.append(f"line {line}: {target} is on a higher floor")
        elif room[0] == target_room[0] == "ops" and len(target_room) > 1 and target_room[1:] != room[1:]:
            wrong.append(f"line {line}: {name} and {target} are different ops")
    assert not wrong, f"{name}: " + "; ".join(wrong)


@pytest.mark.parametrize("name", list(MODULES))
def test_heavy_packages_are_imported_inside_functions(name):
    body = ast.parse(MODULES[name].read_text()).body
    found = []
    for node in body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        found += [each for each in names if each.split(".")[0] in LAZY]
    lazily_imported = name.startswith(("mmkernels.models.", "mmkernels.triton_blocks")) or ".triton_kernels." in name
    assert lazily_imported or not found, f"{name} imports {found} at its top level"


# ---- C++ ----

SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp", ".cuh", ".cu"})
INTRINSIC = re.compile(r"\b_mm\d*_\w+|\b__m(128|256|512)[di]?\b|\b(imm|x86|arm_neon|arm_sve)\w*\.h\b")
ASSEMBLY = re.compile(r"\basm\b\s*(volatile)?\s*\(")
# what each folder of csrc may include of ours, and whether torch's stable headers
FOLDERS = {
    "core": ({"core"}, False),
    "cpu": ({"core", "cpu"}, False),
    "ops": ({"core", "cpu", "ops", "cuda"}, True),
    "cuda": ({"core", "cuda"}, False),
}
STABLE = ("torch/csrc/stable/", "torch/csrc/inductor/aoti_torch/c/", "torch/headeronly/")


def code_of(path: Path) -> str:
    """The text without comments and string literals; line numbers stay."""
    text = path.read_text()
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
    keep = lambda m: m[0] if m[0][0] == '"' else "\n" * m[0].count("\n")  # noqa: E731
    return re.sub(pattern, keep, text, flags=re.S)


def found_in(pattern: re.Pattern[str], path: Path) -> list[str]:
    lines = code_of(path).splitlines()
    return [f"{path.relative_to(ROOT)}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if pattern.search(line)]


def test_there_are_sources_to_check():
    assert any(path.parent.name == "core" for path in SOURCES)
    assert len(MODULES) > 10


def test_vector_intrinsics_stand_in_simd_h_alone():
    assert found_in(INTRINSIC, CSRC / "cpu" / "simd.h"), "the pattern does not see the intrinsics of simd.h"
    assert not [line for path in SOURCES if path.name != "simd.h" for line in found_in(INTRINSIC, path)]


def test_assembly_stands_in_cuda_ptx_alone():
    assert ASSEMBLY.search('asm volatile("mov")')
    assert not [line for path in SOURCES if "ptx" not in path.parts for line in found_in(ASSEMBLY, path)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_includes_run_downward(path):
    ours, may_use_torch = FOLDERS[path.relative_to(CSRC).parts[0]]
    for included in re.findall(r'#include\s+[<"]([^>"]+)[>"]', code_of(path)):
        if included.startswith(("torch/", "ATen/", "c10/", "Python.h", "pybind11")):
            assert may_use_torch, f"{included}: only csrc/ops knows torch"
            assert included.startswith(STABLE), f"{included} is not part of torch's stable interface"
            continue
        local = (path.parent / included).resolve()
        if local.exists() and local.is_relative_to(CSRC):
            assert local.relative_to(CSRC).parts[0] in ours, f"{included} is on a higher floor"


def test_no_source_knows_of_the_emulator():
    assert not [line for path in SOURCES for line in found_in(re.compile(r"#\s*if.*EMULAT"), path)]
