"""What the compiler makes of the Triton concat_fusion kernels, ahead of time for each architecture of the table."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.fusion import native_call
from mmkernels.ops.fusion.reference import NORM_LAYER, NORM_NONE
from mmkernels.ops.fusion.triton_kernels import host, host_backward, host_forward, launch, tables
from mmkernels.triton_launch import ARCHITECTURES
from tests.device.triton_compile import recorded, target_of, usage

KERNELS = ("forward", "grad_source", "grad_weight", "rows")
MATRIX = {"sm_8": "mma.sync", "sm_9": "wgmma.mma_async", "sm_12": "mma.sync", "sm_10": "tcgen05.mma", "gfx": "v_mfma"}
SHARED = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx90a": 64, "gfx942": 64}
"""KiB that a block of threads may have."""
PRODUCTS = ("fusion_forward", "fusion_grad_source", "fusion_grad_weight")
TARGETS = [("sm_80", torch.bfloat16), ("sm_90", torch.bfloat16), ("gfx942", torch.bfloat16)]


def launches_of(arch, dtype, norm, widths=(256, 80, 64), outs=320):
    """Of a call, forward and backward: sources of which the last is shared, everything else at once with a norm."""

    def empty(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    inputs = [empty(8, 100, width) for width in widths[:-1]] + [empty(8, 1, widths[-1])]
    weight = empty(outs, sum(widths))
    vectors = [empty(outs, dtype=torch.float32)]
    vectors += [empty(sum(widths), dtype=torch.float32) if norm else None for _ in range(2)]
    gate, residual = (empty(outs), empty(8, 100, outs)) if norm else (None, None)
    settings = (NORM_LAYER if norm else NORM_NONE, 1e-5, "gelu")
    device = host.Device(arch, 0)

    def entry(direction):
        return lambda *values: getattr(host, direction)(device, *values)

    with recorded(host_forward, host_backward, launch) as launches:
        out, *saved = native_call.forward(entry("forward"), inputs, weight, *vectors, gate, residual, *settings)
        entries = entry("forward"), entry("backward")
        native_call.backward(
            entries, out, inputs, weight, *vectors, gate, *settings, *saved, [True] * (len(widths) + 5)
        )
    return launches


@pytest.mark.parametrize("arch", ["interpreter", *ARCHITECTURES])
def test_every_call_has_a_tile(arch):
    for kernel in KERNELS:
        for dtype in (torch.float32, torch.bfloat16):
            tile = tables.tile(arch, kernel, dtype)
            assert min(tile.height, tile.width, tile.depth) >= 16
            assert all(number & (number - 1) == 0 for number in (*tile[:3], tile.warps))
            assert kernel != "rows" or host_backward.SUM_ROWS % tile.height == 0


def test_launches_of_a_call():
    """Nothing is launched twice that one launch is enough for, and nothing is copied."""
    names = [launch.name for launch in launches_of("sm_80", torch.bfloat16, norm=False)]
    assert names.count("fusion_forward") == 2  # the shared source's product, and all others
    assert names.count("fusion_grad_source") == names.count("fusion_grad_weight") == 3
    assert math.prod(launches_of("sm_80", torch.bfloat16, norm=True)[0].grid) == math.ceil(800 / 16)


def check(arch, dtype, norm):
    """Every kernel of the call compiles, keeps its numbers in registers and multiplies on the matrix units."""
    wanted = next(word for prefix, word in MATRIX.items() if arch.startswith(prefix))
    seen = set()
    for launch_ in launches_of(arch, dtype, norm):
        if launch_.name in seen and launch_.name != "fusion_forward":
            continue
        seen.add(launch_.name)
        found = usage(launch_.compiled(target_of(arch)), arch)
        assert found.spilled == 0, f"{launch_.name}: {found}"
        assert found.shared <= SHARED[arch] * 1024, f"{launch_.name}: {found}"
        if launch_.name in PRODUCTS and (dtype != torch.float32 or arch.startswith("gfx")):
            assert wanted in found.matrix, f"{launch_.name}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "dtype"), TARGETS, ids=str)
def test_compiled(arch, dtype):
    check(arch, dtype, norm=True)


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "norm"), [((1, 1), False), ((1, 1), True), ((1,), False)])
def test_sizes_of_one_compile(widths, norm):
    """The compiler takes a size or stride of 1 for a constant."""
    compiled = [
        launch_.compiled(target_of("sm_80")) for launch_ in launches_of("sm_80", torch.float16, norm, widths, outs=1)
    ]
    assert {"fusion_forward", "fusion_grad_source"} <= {kernel.metadata.name for kernel in compiled}


@pytest.mark.nightly
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiled_more(arch, dtype, norm):
    check(arch, dtype, norm)
