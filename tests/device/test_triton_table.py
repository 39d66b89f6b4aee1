"""The table of tiles of attention, and which tile a call gets; test_triton_code.py compiles the kernels."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.attention.lowered import Lowered
from mmkernels.ops.attention.triton_kernels import host, tables
from mmkernels.triton_launch import ARCHITECTURES, known, options

OPS = ("forward", "statistics", "backward_query", "backward_keys", "backward_bias")
SIZES = ("many", "few", "general")


@pytest.mark.parametrize("arch", ["interpreter", *ARCHITECTURES])
def test_every_call_has_a_tile(arch):
    for op in OPS:
        for dtype in (torch.float32, torch.bfloat16):
            for width in (16, 32, 64, 128, 256):
                tiles = {tables.tile(arch, op, dtype, width, size) for size in SIZES}
                # What decides a row's bits is the same for every size.
                assert len({tile.height if op == "backward_keys" else (tile.keys, tile.chunk) for tile in tiles}) == 1
                for tile in tiles:
                    assert min(tile.height, tile.keys) >= 16 and tile.chunk % tile.keys == 0
                    assert all(number & (number - 1) == 0 for number in (tile.height, tile.keys, tile.warps))


@pytest.mark.parametrize(
    ("arch", "served"),
    [("sm_80", "sm_80"), ("sm_86", "sm_120"), ("sm_87", "sm_80"), ("sm_89", "sm_120"), ("sm_103", "sm_100"),
     ("sm_121", "sm_120"), ("gfx942", "gfx942"), ("gfx1100", "gfx90a")],
)  # fmt: skip
def test_unknown_devices_are_served_by_what_asks_least(arch, served):
    assert known(arch) == served


def test_numbers_of_a_call_choose_nothing_that_decides_bits():
    """Batch, heads and lengths: how many programs, and whether few rows have the lower tile of the same layout."""
    plans = []
    for rows, batch in ((1, 1), (64, 3), (65, 1), (5000, 2)):
        query, key = (torch.empty(batch, 4, n, 64, dtype=torch.float16, device="meta") for n in (rows, 3 * rows))
        call = Lowered(query, [key], [key])
        plan = host.plan_rows(call, host.calls.described(call), host.Device("sm_80", 100), "forward")
        plans.append(plan.tile)
    assert plans[0] == plans[1] and plans[2] == plans[3]
    few, many = plans[0], plans[3]
    assert (few.keys, few.chunk) == (many.keys, many.chunk)
    assert few.height // few.warps == many.height // many.warps == 16


@pytest.mark.parametrize(
    ("arch", "warps", "most"), [("sm_90", 8, 255), ("sm_90", 16, 128), ("gfx942", 8, None), ("interpreter", 8, None)]
)
def test_registers_are_asked_for_where_there_are_so_many(arch, warps, most):
    """Whatever number of warps a user's table has: a block of threads must fit a processor."""
    assert options(arch, warps, 1, 255).get("maxnreg") == most
    assert "maxnreg" not in options(arch, warps, 1)
