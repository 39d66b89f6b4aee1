"""The table of tiles, and what the compiler makes of the kernels with them, ahead of time for each architecture."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.attention.lowered import Lowered, empty_lse
from mmkernels.ops.attention.triton_kernels import host, tables
from mmkernels.triton_launch import ARCHITECTURES, known
from tests.device.triton_compile import recorded, target_of, usage

OPS = ("forward", "statistics", "backward_query", "backward_keys", "backward_bias")
SIZES = ("many", "few", "general")
MATRIX = {"sm_8": "mma.sync", "sm_9": "wgmma.mma_async", "sm_12": "mma.sync", "sm_10": "tcgen05.mma", "gfx": "v_mfma"}
SHARED = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx90a": 64, "gfx942": 64}
"""KiB that a block of threads may have."""


def launches_of(arch, dtype, dim, general=False):
    """Of a call, forward and backward: causal, or with everything."""

    def empty(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    query, key = empty(1, 4, 512, dim), empty(1, 4, 900, dim)
    ends = empty(1, 1, 1, 512, dtype=torch.int32)
    call = Lowered(query, [key], [key], start=ends, stop=ends, scale=0.125)
    if general:
        call = call._replace(
            bias=[empty(1, 4, 512, 900, dtype=torch.float32)], bias_kind=1, softcap=5.0, dropout_p=0.1,
            seed=empty(dtype=torch.int64), visible=empty(1, 1, 512, 900, dtype=torch.bool),
        )  # fmt: skip
    with recorded(host) as launches:
        device = host.Device(arch, 0)
        host.forward(call, True, device)
        host.backward(query, None, call, query, empty_lse(query, False), [True] * 4, device)
    return launches


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


def test_numbers_of_a_call_do_not_choose_its_tile():
    """Batch, heads and lengths decide how many programs there are, and nothing that decides bits."""
    plans = set()
    for rows, batch in ((1, 1), (64, 3), (65, 1), (5000, 2)):
        query, key = (torch.empty(batch, 4, n, 64, dtype=torch.float16, device="meta") for n in (rows, 3 * rows))
        call = Lowered(query, [key], [key])
        plan = host.plan_rows(call, host.calls.described(call), host.Device("sm_80", 100), "forward")
        plans.add(plan.tile)
    assert len(plans) == 1


def check(arch, dtype, dim, general=False):
    """Every kernel of the call compiles, keeps its numbers in registers and multiplies on the matrix units."""
    wanted = next(word for prefix, word in MATRIX.items() if arch.startswith(prefix))
    for launch in launches_of(arch, dtype, dim, general):
        found = usage(launch.compiled(target_of(arch)), arch)
        assert found.spilled == 0, f"{launch.name}: {found}"
        assert found.shared <= SHARED[arch] * 1024, f"{launch.name}: {found}"
        multiplies = launch.name != "attention_delta" and (dtype != torch.float32 or arch.startswith("gfx"))
        if multiplies:  # tiles too low for products of warp groups have those of a warp
            low = arch in ("sm_90", "sm_100") and (general or dim > 64)
            assert found.matrix if low else wanted in found.matrix, f"{launch.name}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
def test_compiled(arch):
    check(arch, torch.bfloat16, 64)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("arch", "dtype", "dim", "general"),
    [
        ("sm_100", torch.bfloat16, 64, False),
        ("sm_120", torch.bfloat16, 64, False),
        ("gfx90a", torch.bfloat16, 64, False),
        ("sm_90", torch.bfloat16, 64, True),
        ("gfx942", torch.bfloat16, 64, True),
        ("sm_80", torch.bfloat16, 64, True),
        ("sm_80", torch.bfloat16, 128, False),
        ("sm_80", torch.bfloat16, 256, False),
        ("sm_90", torch.bfloat16, 256, False),
        ("gfx942", torch.bfloat16, 128, False),
        ("gfx942", torch.float32, 64, False),
        ("sm_90", torch.bfloat16, 128, False),
        ("sm_80", torch.float32, 64, False),
    ],
    ids=str,
)
def test_compiled_more(arch, dtype, dim, general):
    check(arch, dtype, dim, general)
