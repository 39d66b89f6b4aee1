"""The table of tiles of contrastive_loss; test_triton_code.py compiles the kernels."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.contrastive.triton_kernels import tables
from mmkernels.triton_launch import ARCHITECTURES


@pytest.mark.parametrize("arch", ["interpreter", *ARCHITECTURES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_kernel_has_a_tile(arch, dtype):
    tiles = {kernel: tables.tile(arch, kernel, dtype) for kernel in ("statistics", "slopes", "gradient")}
    for tile in tiles.values():
        assert all(number & (number - 1) == 0 for number in tile[:4]) and min(tile[:3]) >= 16
    # a gradient's product reads whole slices, which must end where the slopes do
    slopes = tiles["slopes"]
    assert slopes.rows % tiles["gradient"].depth == 0 and slopes.columns % tiles["gradient"].depth == 0
