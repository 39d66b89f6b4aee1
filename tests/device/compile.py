"""CUDA C++ to PTX with the flags of the project's build, kept under build/ by content."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from tools.cuda import DEVICE_FLAGS

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = (ROOT / "csrc" / "cuda", ROOT / "csrc")
FLAGS = DEVICE_FLAGS
CACHE = ROOT / "build" / "ptx"
_INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)


def nvcc() -> str | None:
    """The compiler, if this machine has one."""
    return shutil.which("nvcc")


def ptx_of(source: Path | str, arch: int, flags: tuple[str, ...] = (), include: tuple[Path, ...] = INCLUDE) -> str:
    """The PTX of a file or of the text of one. Unchanged sources and flags are compiled once."""
    compiler = nvcc()
    if compiler is None:
        raise FileNotFoundError("nvcc is not on the PATH")
    command = [compiler, *FLAGS, *(f"-I{folder}" for folder in include), *flags, f"-arch=sm_{arch}", "-ptx"]
    key = hashlib.sha256("\0".join(command).encode())
    key.update(subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout)
    text = source.read_text() if isinstance(source, Path) else source
    beside = source.parent if isinstance(source, Path) else ROOT
    for name, content in sorted(_with_includes(text, beside, include).items()):
        key.update(f"{name}\0{content}\0".encode())
    kept = CACHE / f"{key.hexdigest()[:32]}.ptx"
    if not kept.exists():
        _compile(command, source, kept)
    return kept.read_text()


def _compile(command: list[str], source: Path | str, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    own = kept.with_suffix(f".{os.getpid()}")  # processes may compile the same text at once
    path = source if isinstance(source, Path) else own.with_suffix(".cu")
    if isinstance(source, str):
        path.write_text(source)
    try:
        result = subprocess.run([*command, "-o", str(own), str(path)], capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{result.stdout}{result.stderr}")
        own.replace(kept)
    finally:
        own.unlink(missing_ok=True)
        if isinstance(source, str):
            path.unlink(missing_ok=True)


def _with_includes(
    text: str, folder: Path, include: tuple[Path, ...], found: dict[str, str] | None = None
) -> dict[str, str]:
    """The text under the name "" and every file of the project that it includes, directly or not."""
    found = {"": text} if found is None else found
    for name in _INCLUDE.findall(text):
        path = next((each for base in (folder, *include) if (each := (base / name).resolve()).is_file()), None)
        if path is not None and str(path) not in found:
            found[str(path)] = content = path.read_text()
            _with_includes(content, path.parent, include, found)
    return found
