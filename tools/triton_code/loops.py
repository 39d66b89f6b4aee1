"""The hot loops of attention's Triton kernels beside a textbook's, read by tools/machine_code."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tools.machine_code.count import Kernel, count_kernel
from tools.machine_code.count import Launch as Facts
from tools.machine_code.disassemble import Resources, find_tool
from tools.machine_code.sass import parse

from .account import usage
from .ahead import Launch, target_of
from .sweep import DTYPES, Entry, tile_of
from .textbook import textbook, textbook_described

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
DESCRIBED = ("sm_90", "sm_100")
"""Those on which the textbook's loop is read with tensor descriptors too."""


def launches(arch: str, dtype: str, dim: int) -> Iterator[tuple[str, Launch]]:
    """Ours, plain calls; the textbook's with its own tile, with that of our forward, and with tensor descriptors."""
    forward = None
    for call in ("long", "plain"):
        for launch in Entry("attention", arch, dtype, dim, call).launches:
            if launch.name == "attention_delta" or (call == "plain" and launch.name == "attention_forward"):
                continue
            forward = forward or launch
            yield launch.name, launch
    assert forward is not None
    shape = tuple(forward.options[name] for name in ("HEIGHT", "KEYS", "num_warps", "num_stages"))
    yield "textbook", textbook(DTYPES[dtype], dim)
    yield "textbook with our tile", textbook(DTYPES[dtype], dim, shape)
    if arch in DESCRIBED:
        yield "textbook with descriptors", textbook(DTYPES[dtype], dim, kernel=textbook_described)


def figures(launch: Launch, arch: str) -> Kernel:
    """Registers, shared memory, occupancy and hot loop, as tools/machine_code counts them."""
    kernel = launch.compiled(target_of(arch))
    took = usage(kernel, arch)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [find_tool("nvdisasm"), "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    listing = parse(text)[kernel.metadata.name]
    resources = Resources(took.registers, 0, took.spilled, 0)
    facts = Facts(threads=32 * kernel.metadata.num_warps, dynamic_shared_bytes=took.shared)
    return count_kernel(listing, resources, int(arch[3:]), launch.name, facts)


def rows(arch: str, dtype: str, dim: int) -> Iterator[dict[str, Any]]:
    """A record for each kernel."""
    for name, launch in launches(arch, dtype, dim):
        found = figures(launch, arch)
        loop = found.hot_loop
        record = {
            "arch": arch, "dtype": dtype, "dim": dim, "kernel": name, "tile": tile_of(launch),
            "registers": found.registers, "spilled": found.spill_store_bytes, "shared": found.dynamic_shared_bytes,
            "warps": None if found.occupancy is None else found.occupancy.warps,
        }  # fmt: skip
        if loop is not None:
            record |= {"whole": asdict(loop.whole), "steady": asdict(loop.steady), "opcodes": loop.opcodes_of_work}
        yield record


def table(records: list[dict[str, Any]]) -> str:
    """For people."""
    lines = ["arch   D    kernel                     slots/kFLOP  share   regs  spilled  shared  warps  tile"]
    for row in records:
        steady = row.get("steady", {"slots_per_kflop": 0.0, "share": 0.0})
        lines.append(
            f"{row['arch']:<7}{row['dim']:<5}{row['kernel']:<27}{steady['slots_per_kflop']:<13.2f}{steady['share']:<8.1%}"
            f"{row['registers']:<6}{row['spilled']:<9}{row['shared']:<8}{row['warps']!s:<7}{row['tile']}"
        )
    return "\n".join(lines)
