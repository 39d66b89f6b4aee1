"""The table of tiles of contrastive_loss, and what the compiler makes of the kernels with them, ahead of time."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.contrastive.triton_kernels import host, tables
from mmkernels.triton_launch import ARCHITECTURES
from tests.device.test_triton_table import MATRIX, SHARED
from tests.device.triton_compile import recorded, target_of, usage

MULTIPLY = (
    "contrastive_statistics",
    "contrastive_softmax_slopes",
    "contrastive_sigmoid_slopes",
    "contrastive_gradient",
)


def launches_of(arch, dtype, kind, general):
    """Of a call, losses and gradients: pairs, or a matrix of targets with label smoothing, in two bands."""

    def empty(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    def floats(*shape):
        return empty(*shape, dtype=torch.float32)

    rows, columns, dim = 512, 16384, 256
    image, text, scale = empty(rows, dim), empty(columns, dim), floats()
    targets = empty(rows, columns, dtype=torch.bool) if general else None
    outputs = empty(rows, dim), empty(columns, dim), empty(2, dtype=torch.float64)
    before, host.BAND_PAIRS = host.BAND_PAIRS, 1 << 22
    try:
        with recorded(host) as launches:
            if kind == "softmax":
                stats = floats(2, rows), floats(2, rows), floats(2, columns), floats(2, columns)
                host.statistics(arch, image, text, scale, targets, general, *stats)
                sides = floats(5, rows), floats(5, columns)
                host.gradients(arch, image, text, scale, targets, general, *sides, *outputs)
            else:
                numbers = floats(1, rows), floats(1, rows)
                bias, smoothing = (scale, 0.1) if general else (None, 0.0)
                host.sigmoid(arch, image, text, scale, bias, targets, smoothing, *numbers, *outputs)
    finally:
        host.BAND_PAIRS = before
    return launches


@pytest.mark.parametrize("arch", ["interpreter", *ARCHITECTURES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_kernel_has_a_tile(arch, dtype):
    tiles = {kernel: tables.tile(arch, kernel, dtype) for kernel in ("statistics", "slopes", "gradient")}
    for tile in tiles.values():
        assert all(number & (number - 1) == 0 for number in tile[:4]) and min(tile[:3]) >= 16
    # a gradient's product reads whole slices, which must end where the slopes do
    slopes = tiles["slopes"]
    assert slopes.rows % tiles["gradient"].depth == 0 and slopes.columns % tiles["gradient"].depth == 0


def check(arch, dtype, kind, general):
    """Every kernel of the call compiles, keeps its numbers in registers and multiplies on the matrix units."""
    wanted = next(word for prefix, word in MATRIX.items() if arch.startswith(prefix))
    launches = launches_of(arch, dtype, kind, general)
    # The two gradients, which differ in the strides of the slopes, are two variants; bands are none.
    variants = {(x.name, x.args[3:5] if x.name == "contrastive_gradient" else ()): x for x in launches}
    assert len(variants) == (6 if kind == "softmax" else 5) + 1
    for launch in variants.values():
        found = usage(launch.compiled(target_of(arch)), arch)
        assert found.spilled == 0, f"{launch.name}: {found}"
        assert found.shared <= SHARED[arch] * 1024, f"{launch.name}: {found}"
        if launch.name in MULTIPLY and (dtype != torch.float32 or arch.startswith("gfx")):
            assert wanted in found.matrix, f"{launch.name}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize("general", [False, True], ids=["pairs", "general"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
def test_compiled(arch, kind, general):
    check(arch, torch.bfloat16, kind, general)


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("general", [False, True], ids=["pairs", "general"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiled_everywhere(arch, kind, general, dtype):
    check(arch, dtype, kind, general)
