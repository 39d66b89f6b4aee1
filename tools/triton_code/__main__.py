"""Compiles the Triton kernels with every entry of the tables of tiles: registers, spills, shared memory, matrix units.

    python -m tools.triton_code [--op attention ...] [--arch sm_80 ...] [--dtype bf16 ...] [--dim 64 ...]
    python -m tools.triton_code --loops      hot loops of attention beside a textbook's

Needs triton, and no GPU. Exits with 1 if a kernel spills, asks for more shared memory than there is, or multiplies
beside the matrix units. With --json the figures replace older ones of the same entries. All of it takes an hour.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import triton

from mmkernels.triton_launch import ARCHITECTURES

from . import kept
from .calls import CALLS, DIMS
from .loops import ARCHITECTURES as OF_LOOPS
from .loops import rows as rows_of_loops
from .loops import table
from .sweep import DTYPES, entries, faults, record


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.triton_code", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--op", nargs="+", choices=CALLS)
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES)
    parser.add_argument("--dim", nargs="+", type=int, choices=sorted({dim for dims in DIMS.values() for dim in dims}))
    parser.add_argument("--call", nargs="+", choices=sorted({call for calls in CALLS.values() for call in calls}))
    parser.add_argument("--loops", action="store_true", help="hot loops of attention beside a textbook's, no sweep")
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args()
    if args.json and args.json.exists() and kept.read(args.json)["triton"] != triton.__version__:
        print(f"{args.json} is of another triton: its figures are left out", file=sys.stderr)
        args.json.unlink()
    return loops(args) if args.loops else sweep(args)


def sweep(args: argparse.Namespace) -> int:
    """Compiles entries, prints what is wrong, keeps the figures."""
    found: list[kept.Row] = []
    for entry in entries(op=args.op, arch=args.arch, dtype=args.dtype, dim=args.dim, call=args.call):
        rows = record(entry)
        found += rows
        for row in rows:
            for fault in faults(row):
                print(" ".join(str(row[name]) for name in kept.PLACE), fault, sep=": ", flush=True)
    print(f"{len(found)} kernels, {sum(bool(faults(row)) for row in found)} with faults")
    _keep(args.json, kernels=found)
    return 1 if any(map(faults, found)) else 0


def loops(args: argparse.Namespace) -> int:
    """Reads the hot loops, prints a table, keeps the figures."""
    found = [
        row
        for arch in args.arch or OF_LOOPS
        for dtype in args.dtype or ["bf16"]
        for dim in args.dim or (64, 128)
        for row in rows_of_loops(arch, dtype, dim)
    ]
    print(table(found))
    _keep(args.json, loops=found)
    return 0


def _keep(path: Path | None, kernels: list[kept.Row] | None = None, loops: list[kept.Row] | None = None) -> None:
    if path is None:
        return
    old: dict[str, Any] = kept.read(path)
    of_entries = kept.laid_over(old["kernels"], kernels or [], ("op", "arch", "dtype", "dim", "call"))
    of_loops = kept.laid_over(old["loops"], loops or [], ("arch", "dtype", "dim"))
    kept.write(path, triton.__version__, of_entries, of_loops)


if __name__ == "__main__":
    sys.exit(main())
