"""`mmkernels tune`: measures tiles of the Triton kernels on this machine's GPU and keeps the fastest for the user.

Each entry of the shipped tables is tried with other heights, warps and stages, one kernel after another, in the whole
forward or backward of a call that stands for its size class. What decides a row's sums is not touched, and all calls of
a class keep one tile, so a row's bits do not come to depend on its batch.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmkernels import _triton, triton_launch, user_tiles
from mmkernels.ops.attention.api import attention
from mmkernels.ops.attention.triton_kernels import tables as attention_tables
from mmkernels.ops.contrastive.api import contrastive_loss
from mmkernels.ops.contrastive.triton_kernels import tables as contrastive_tables
from mmkernels.ops.fusion.api import concat_fusion
from mmkernels.ops.fusion.triton_kernels import tables as fusion_tables

GAIN = 0.02
"""A tile that is faster by less than this share does not replace the shipped one."""
REPEATS = 10
TABLES = {"attention": attention_tables.TABLE, "fusion": fusion_tables.TABLE, "contrastive": contrastive_tables.TABLE}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CHOICES: dict[str, tuple[int, ...]] = {
    "height": (16, 32, 64, 128), "keys": (16, 32, 64, 128), "width": (32, 64, 128, 256), "warps": (4, 8),
    "stages": (1, 2, 3, 4),
}  # fmt: skip

Tile = dict[str, int]


class Entry(NamedTuple):
    """A tile of a table: where it stands, and in which direction of a call its kernel runs."""

    op: str
    path: tuple[str, ...]
    tile: Tile
    forward: bool


def entries(op: str, arch: str, dtype: torch.dtype) -> Iterator[Entry]:
    """Those of a dtype that may be tuned; fixed numbers are left out of their tiles."""
    bits = f"{dtype.itemsize * 8} bit"
    for kernel, by_bits in triton_launch.shipped(TABLES[op], arch).items():
        if kernel in user_tiles.KEPT or (op == "attention" and kernel == "statistics"):
            continue
        forward = kernel in ("forward", "statistics")
        if op != "attention":
            yield Entry(op, (kernel, bits), by_bits[bits], forward)
            continue
        for width, sizes in by_bits[bits].items():
            for size, tile in sizes.items():
                if size not in ("fixed", "few"):  # few rows have the bits of many
                    yield Entry(op, (kernel, bits, width, size), tile, forward)


def candidates(entry: Entry) -> list[Tile]:
    """The shipped numbers first, then every other choice of those that may be tuned."""
    names = [name for name in CHOICES if name in user_tiles.TUNABLE[entry.op] and name in entry.tile]
    own = {name: entry.tile[name] for name in names}
    found = [own]
    for values in itertools.product(*(CHOICES[name] for name in names)):
        tile = dict(zip(names, values))
        rows = tile.get("height", tile.get("keys", 128))
        if tile != own and rows >= 16 * tile["warps"] // 4:  # less leaves warps without rows
            found.append(tile)
    return found


def choose(seconds: Sequence[tuple[Tile, float | None]]) -> tuple[Tile, float]:
    """The fastest, and what share of the first one's time it saves; the first one unless another gains enough.

    None: it could not be compiled or launched. ValueError: the first one was not measured.
    """
    shipped, base = seconds[0]
    if base is None:
        raise ValueError(f"the shipped tile {shipped} could not be measured")
    tile, best = min(((tile, t) for tile, t in seconds if t is not None), key=lambda pair: pair[1])
    gain = 1.0 - best / base
    return (tile, gain) if gain >= GAIN else (shipped, 0.0)


def tune(
    arch: str, found: Sequence[Entry], measure: Callable[[Entry], float], told: Callable[[str], None], seconds: float
) -> dict[str, Any]:
    """The user's table of an architecture, {op: ...}, of the entries that gained, as far as the time goes.

    measure: the seconds of a call that launches the entry's kernel, with the tiles that are now in place.
    """
    table: dict[str, Any] = {}
    ends = time.monotonic() + seconds
    for done, entry in enumerate(found):
        if time.monotonic() > ends:
            told(f"the time is over: {len(found) - done} of {len(found)} entries keep the shipped tiles")
            break
        timed: list[tuple[Tile, float | None]] = []
        for tile in candidates(entry):
            with user_tiles.trial({arch: _with(table, entry, tile)}):
                timed.append((tile, _measured(measure, entry)))
        if timed[0][1] is None:
            told(f"{entry.op} {' '.join(entry.path)}: the shipped tile could not be measured; left as it is")
            continue
        tile, gain = choose(timed)
        told(f"{entry.op} {' '.join(entry.path)}: {tile}, {gain:.0%} faster of {len(timed)} tiles")
        if gain:
            table = _with(table, entry, tile)
    return table


def _measured(measure: Callable[[Entry], float], entry: Entry) -> float | None:
    """None where the compiler or the device refuses the tile."""
    try:
        return measure(entry)
    except Exception as error:
        # Triton's own kinds of error are not imported here; what stops the whole command goes on.
        if type(error).__module__.startswith("triton") or isinstance(error, (RuntimeError, ValueError)):
            return None
        raise


def _with(table: dict[str, Any], entry: Entry, tile: Tile) -> dict[str, Any]:
    found = copy.deepcopy(table)
    place = found.setdefault(entry.op, {})
    for name in entry.path:
        place = place.setdefault(name, {})
    place.update(tile)
    return found


# ---- calls that stand for a size class ----

Forward = tuple[Callable[[], torch.Tensor], list[torch.Tensor]]
"""A forward, and the operands that have a gradient."""


def call_of(entry: Entry, dtype: torch.dtype, device: torch.device, length: int = 2048) -> Callable[[], Any]:
    """What is timed: a forward, or the backward of one that has been done."""
    forward, leaves = _FORWARDS[entry.op](entry, dtype, device, length)
    if entry.forward:
        return torch.no_grad()(forward)
    out = forward()
    grad = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def _attention(entry: Entry, dtype: torch.dtype, device: torch.device, length: int) -> Forward:
    width, general = int(entry.path[2]), entry.path[3] == "general"
    query, key, value = (_leaf(4, 8, length, width, dtype=dtype, device=device) for _ in range(3))
    options: dict[str, Any] = {"backend": "triton"}
    leaves = [query, key, value]
    if general or entry.path[0] == "backward_bias":
        options["bias"] = _leaf(1, 8, length, length, dtype=dtype, device=device)
        leaves.append(options["bias"])
    return lambda: attention(query, key, value, **options), leaves


def _fusion(entry: Entry, dtype: torch.dtype, device: torch.device, length: int) -> Forward:
    leaves = [_leaf(4 * length, 512, dtype=dtype, device=device) for _ in range(2)]
    leaves.append(_leaf(1024, 1024, dtype=dtype, device=device))
    return lambda: concat_fusion(leaves[:2], leaves[2], activation="gelu", backend="triton"), leaves


def _contrastive(entry: Entry, dtype: torch.dtype, device: torch.device, length: int) -> Forward:
    image, text = (_leaf(2 * length, 512, dtype=dtype, device=device) for _ in range(2))
    scale = torch.ones((), device=device)
    return lambda: contrastive_loss(image, text, scale, backend="triton"), [image, text]


_FORWARDS = {"attention": _attention, "fusion": _fusion, "contrastive": _contrastive}


def _leaf(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, device=device).mul_(shape[-1] ** -0.5).requires_grad_()


# ---- the command ----


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `mmkernels tune`."""
    parser.add_argument("--op", nargs="+", choices=list(_FORWARDS), default=list(_FORWARDS), help="which ops (all)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="that stands for its bits (bf16)")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which the rest stays as it is (30)")
    parser.add_argument("--out", type=Path, help=f"the table (${user_tiles.VARIABLE}, or the user's settings)")


def command(args: argparse.Namespace) -> int:
    """Measures, then adds what gained to the user's table."""
    if not args.minutes > 0:
        raise ValueError(f"--minutes must be above 0, got {args.minutes}")
    reason = _triton.why_not_here()
    if reason is not None:
        raise RuntimeError(f"tiles are measured on a GPU with triton: {reason}")
    file = args.out or user_tiles.path()
    if file is None:
        raise ValueError(f"--out must name a file where ${user_tiles.VARIABLE} is empty")
    table = user_tiles.read(file)  # a file that cannot be read is not measured for, and not overwritten
    device, dtype = torch.device("cuda", torch.cuda.current_device()), DTYPES[args.dtype]
    arch = triton_launch.device_of(device).arch
    found = [entry for op in args.op for entry in entries(op, arch, dtype)]

    def told(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    tuned = tune(arch, found, on_gpu(dtype, device), told, 60 * args.minutes)
    table = kept_beside(table, arch, tuned)
    user_tiles.write(file, table)
    user_tiles.forget()
    print(json.dumps(tuned, indent=1) if args.json else f"{arch}: {file}")
    return 0


def kept_beside(table: dict[str, Any], arch: str, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """A user's table with newly tuned entries of an architecture, which replace older ones of the same place."""
    found = copy.deepcopy(table)

    def lay(into: dict[str, Any], over: Mapping[str, Any]) -> None:
        for name, value in over.items():
            if isinstance(value, Mapping) and isinstance(into.get(name), dict):
                lay(into[name], value)
            else:
                into[name] = copy.deepcopy(value)

    lay(found, {arch: tuned} if tuned else {})
    return found


def on_gpu(dtype: torch.dtype, device: torch.device) -> Callable[[Entry], float]:
    """The median seconds of an entry's call."""
    calls: dict[tuple[str, ...], Callable[[], Any]] = {}

    def measure(entry: Entry) -> float:
        place = (entry.op, *entry.path)
        if place not in calls:
            calls.clear()  # one at a time: memory
            calls[place] = call_of(entry, dtype, device)
        times = []
        for repeat in range(REPEATS + 2):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            calls[place]()
            end.record()
            torch.cuda.synchronize(device)
            if repeat >= 2:  # the first compiles
                times.append(begin.elapsed_time(end) / 1000)
        return statistics.median(times)

    return measure
