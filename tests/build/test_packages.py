"""Wheels and source archives: what they hold, how they are tagged, and how a build fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def call_backend(hook: str, folder: Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A hook of the build backend in a process of its own, as pip and build call it."""
    code = (
        "import json, sys; from setuptools import build_meta\n"
        f"name = build_meta.{hook}({str(folder)!r})\n"
        "print(json.dumps({'name': name, 'torch': 'torch' in sys.modules}))"
    )
    return run(sys.executable, "-c", code, cwd=cwd, **environment)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """A source archive, unpacked; everything below starts from it, as a user's build does."""
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"
    # From a copy: setuptools leaves a folder of metadata in the tree that it packs.
    for name in ("mmkernels", "csrc", "tools", "tests", "docs", "bench"):
        run("cp", "-r", str(ROOT / name), f"{tree.mkdir(exist_ok=True) or tree}/", cwd=folder)
    for path in ROOT.iterdir():
        if path.is_file():
            run("cp", str(path), f"{tree}/", cwd=folder)
    result = call_backend("build_sdist", folder, tree)
    assert result.returncode == 0, result.stderr
    with tarfile.open(folder / json.loads(result.stdout.splitlines()[-1])["name"]) as archive:
        archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)
    return next(folder.glob("mmkernels-*/"))


def test_source_archive_holds_all_that_a_build_needs(sdist):
    held = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    for name in ("csrc", "tools", "mmkernels"):
        for path in (ROOT / name).rglob("*"):
            if path.suffix in {".h", ".cpp", ".py", ".cuh", ".cu", ".map", ".json"}:
                assert str(path.relative_to(ROOT)) in held
    assert {"LICENSE", "NOTICE", "constraints.txt", "Makefile", "docs/building.md"} <= held
    assert not [name for name in held if name.endswith((".so", ".o", ".pyc"))]


def test_metadata_without_torch(sdist, tmp_path):
    result = call_backend("prepare_metadata_for_build_wheel", tmp_path, sdist)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["torch"] is False
    metadata = (tmp_path / told["name"] / "METADATA").read_text()
    assert "Requires-Dist: torch>=2.10\n" in metadata and "License-Expression: Apache-2.0\n" in metadata


def test_pure_wheel_on_request(sdist, tmp_path):
    result = call_backend("build_wheel", tmp_path, sdist, MMKERNELS_NO_NATIVE="1")
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"CXX": "no-such-compiler"}, "the C++ compiler no-such-compiler does not run"),
        ({"CXXFLAGS": "-Dmmkernels=0"}, "failed with status 1"),  # nothing of ours compiles, the probe does
        ({"MAX_JOBS": "many"}, "MAX_JOBS must be a positive integer, got 'many'"),
    ],
)
def test_a_build_without_a_library_fails_loudly(sdist, tmp_path, environment, sentence):
    result = call_backend("build_wheel", tmp_path, sdist, **environment)
    assert result.returncode != 0
    assert re.search(rf"^error: .*{re.escape(sentence)}", result.stderr, flags=re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.slow
def test_wheel(sdist, tmp_path):
    """pip builds it, offline; it holds the package and one library, and runs from another folder on this torch."""
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    command = ("-m", "pip", "wheel", *offline, "-w", str(tmp_path), str(sdist))
    result = run(sys.executable, *command, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mmkernels"}
    assert [name for name in names if name.endswith(".so")] == ["mmkernels/_C.abi3.so"]
    kinds = (".py", ".json")
    package = {str(path.relative_to(sdist)) for path in (sdist / "mmkernels").rglob("*") if path.suffix in kinds}
    assert package == {name for name in names if name.endswith(kinds) and ".dist-info/" not in name}
    assert any(name.endswith("licenses/LICENSE") for name in names)

    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import torch, mmkernels as mmk\n"
        "x = torch.randn(2, 4, 33, 16)\n"
        "out = mmk.attention(x, x, x, backend='cpu')\n"
        "torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(x, x, x))\n"
        "print(mmk.__file__)"
    )
    result = run(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(installed)
