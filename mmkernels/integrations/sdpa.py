"""`override_sdpa`: every F.scaled_dot_product_attention inside a block."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from mmkernels.ops.attention.sdpa import scaled_dot_product_attention


class override_sdpa(TorchFunctionMode):
    """`with mmk.override_sdpa():` runs every `F.scaled_dot_product_attention` inside as mmkernels' drop-in.

    Only calls that Python makes are seen: not those inside torch's fused kernels (the fast path of
    `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` without gradients; `mmk.patch` serves these).

    Attributes:
        calls: how many calls were taken over; not counted under torch.compile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return scaled_dot_product_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
