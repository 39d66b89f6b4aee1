"""Every entry of the tables, compiled: one record for a kernel, architecture, dtype, head dim and call."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from mmkernels.triton_launch import ARCHITECTURES

from .account import SHARED, usage
from .ahead import Launch, target_of
from .calls import CALLS, DIMS, launches

PRODUCTS = {
    "attention_forward", "attention_far_rows", "attention_grad_query", "attention_grad_keys", "attention_grad_bias",
    "fusion_forward", "fusion_grad_source", "fusion_grad_weight", "contrastive_statistics",
    "contrastive_softmax_slopes", "contrastive_sigmoid_slopes", "contrastive_gradient",
}  # fmt: skip
"""Kernels that multiply matrices."""
SIZES = {
    "HEIGHT": "height", "KEYS": "keys", "WIDTH": "width", "DEPTH": "depth", "num_warps": "warps",
    "num_stages": "stages", "maxnreg": "registers",
}  # fmt: skip
"""Options of a launch, and how the figures call them."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}


class Entry(NamedTuple):
    """What a call is made of; `dim` 0 where the op has none."""

    op: str
    arch: str
    dtype: str
    dim: int
    call: str

    @property
    def launches(self) -> list[Launch]:
        """The kernels of the call, each form once."""
        return launches(self.op, self.arch, DTYPES[self.dtype], self.dim, self.call)


def entries(**chosen: Iterable[Any] | None) -> Iterator[Entry]:
    """All entries, or those whose fields are among the chosen ones."""
    for op, calls in CALLS.items():
        for dtype, arch, dim, call in itertools.product(DTYPES, ARCHITECTURES, DIMS[op], calls):
            entry = Entry(op, arch, dtype, dim, call)
            if all(values is None or getattr(entry, name) in values for name, values in chosen.items()):
                yield entry


def tile_of(launch: Launch) -> str:
    """Sizes of the tile, warps, stages and most registers of a launch, where it has them."""
    return ", ".join(f"{name} {launch.options[option]}" for option, name in SIZES.items() if option in launch.options)


def record(entry: Entry) -> list[dict[str, Any]]:
    """What the compiler makes of an entry's kernels; the matrix instruction is "" where there is none."""
    found = []
    for launch in entry.launches:
        took = usage(launch.compiled(target_of(entry.arch)), entry.arch)
        row = {**entry._asdict(), "kernel": launch.name, "tile": tile_of(launch), "registers": took.registers}
        row |= {"spilled": took.spilled, "shared": took.shared, "matrix": " ".join(took.matrix)}
        found.append(row)
    return found


def faults(row: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record: spills, too much shared memory, products beside the matrix units."""
    wrong, most = [], SHARED[row["arch"]] * 1024
    if row["spilled"]:
        wrong.append(f"spills {row['spilled']}")
    if row["shared"] > most:
        wrong.append(f"{row['shared']} bytes of shared memory, of {most}")
    if not set(row["matrix"].split()) & set(wanted(row)) and wanted(row):
        wrong.append(f"no {' or '.join(wanted(row))}")
    return wrong


def wanted(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Matrix instructions that a kernel with products should have one of; in fp32 only AMD's are exact.

    Those of warp groups (wgmma, tcgen05) take 64 rows or more.
    """
    arch = row["arch"]
    if row["kernel"] not in PRODUCTS or (row["dtype"] == "fp32" and not arch.startswith("gfx")):
        return ()
    if arch.startswith("gfx"):
        return ("v_mfma",)
    own = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}.get(arch)
    if own is None:
        return ("mma.sync",)
    rows = re.search(r"keys (\d+)" if row["kernel"] == "attention_grad_keys" else r"height (\d+)", row["tile"])
    assert rows is not None
    return (own,) if int(rows[1]) >= 64 else (own, "mma.sync")
