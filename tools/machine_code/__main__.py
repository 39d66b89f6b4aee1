"""Machine-code report of the CUDA kernels: needs nvcc, no GPU.

    python -m tools.machine_code [UNIT.cu ...] [--arch 80 86 ...] [--json FILE] [--compare FILE]

Compiles every unit (csrc/cuda/launch/*.cu unless some are named) for every architecture and prints a table; --json
keeps the figures, --compare exits with 1 if anything is worse than in a file kept earlier. --json leaves what it finds
in its file of other architectures and, where units are named, of other units. docs/kernels/machine-code.md says what
the figures mean.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

from .compare import compare
from .disassemble import ARCHITECTURES, ROOT, ToolError, compile_all, demangled, nvcc_version, shorten
from .kept import read_kept, write_kept
from .launches import find_launches
from .occupancy import LIMITS
from .report import format_report, make_report, read_launches


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.machine_code", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("unit", nargs="*", type=Path, help="translation units (default: csrc/cuda/launch/*.cu)")
    parser.add_argument("--arch", nargs="+", type=int, choices=LIMITS, default=list(ARCHITECTURES))
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--compare", type=Path, help="an earlier --json; exit with 1 if something is worse than there")
    parser.add_argument("--launches", type=Path, help="JSON of launches that the code does not tell, by kernel")
    parser.add_argument("--tools", type=Path, help="folder of nvdisasm and cuobjdump")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers that run at a time")
    args = parser.parse_args()
    units = [unit.resolve() for unit in args.unit] or sorted((ROOT / "csrc" / "cuda" / "launch").glob("*.cu"))
    if not units:
        sys.exit("error: there are no translation units under csrc/cuda/launch")
    try:
        earlier = read_kept(args.compare) if args.compare else None
        launches = read_launches(args.launches) if args.launches else []
        with tempfile.TemporaryDirectory() as folder:
            compiled = compile_all(units, args.arch, Path(folder), args.jobs, args.tools)
            names = demangled(sorted({name for unit in compiled for name in unit.resources}))
            for name, launch in find_launches(names, Path(folder)).items():
                launches.append((re.compile(re.escape(shorten(name)) + "$"), launch))
        report = make_report(compiled, nvcc_version(), launches)
    except (ToolError, OSError) as error:
        sys.exit(f"error: {error}")
    print(format_report(report))
    if args.json:
        write_kept(report, args.json, whole=not args.unit)
    if earlier is None:
        return 0
    found = compare(earlier, report)
    print("\n".join(["", *found.remarks, f"{found.compared} compared with {args.compare}, regressions:"]))
    print("\n".join(found.regressions or ["none"]))
    return 1 if found.regressions else 0


if __name__ == "__main__":
    sys.exit(main())
