"""The table of tiles of concat_fusion and the launches of a call; test_triton_code.py compiles them."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.fusion.triton_kernels import host_backward, tables
from mmkernels.triton_launch import ARCHITECTURES
from tools.triton_code.ahead import target_of
from tools.triton_code.calls import fusion_launches

KERNELS = ("forward", "grad_source", "grad_weight", "rows")


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
    names = [launch.name for launch in fusion_launches("sm_80", torch.bfloat16, norm=False)]
    assert names.count("fusion_forward") == 2  # the shared source's product, and all others
    assert names.count("fusion_grad_source") == names.count("fusion_grad_weight") == 3
    assert math.prod(fusion_launches("sm_80", torch.bfloat16, norm=True)[0].grid) == math.ceil(800 / 16)


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "norm"), [((1, 1), False), ((1, 1), True), ((1,), False)])
def test_sizes_of_one_compile(widths, norm):
    """The compiler takes a size or stride of 1 for a constant."""
    compiled = [
        launch_.compiled(target_of("sm_80"))
        for launch_ in fusion_launches("sm_80", torch.float16, norm, widths, outs=1)
    ]
    assert {"fusion_forward", "fusion_grad_source"} <= {kernel.metadata.name for kernel in compiled}
