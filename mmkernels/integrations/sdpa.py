"""`override_sdpa`: every F.scaled_dot_product_attention inside a block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from mmkernels.integrations.rebinding import with_names
from mmkernels.ops.attention.sdpa import scaled_dot_product_attention


class override_sdpa(TorchFunctionMode):
    """`with mmk.override_sdpa():` runs every `F.scaled_dot_product_attention` inside as mmkernels' drop-in.

    Only calls that Python makes are seen: not those inside torch's fused kernels (the fast path of
    `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` without gradients), and under torch.compile not those of
    `nn.MultiheadAttention` at all. `mmk.patch` serves both.

    Attributes:
        calls: how many calls were taken over; not counted under torch.compile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return scaled_dot_product_attention(*args, **kwargs)
        if func is F.multi_head_attention_forward and not torch.compiler.is_compiling():
            self.calls += not kwargs.get("need_weights", True)
            return _multi_head_attention_forward(*args, **kwargs)
        return func(*args, **kwargs)


# The mode is off while it answers for a function, so it would not see what torch's function calls in turn. With
# need_weights that is no scaled_dot_product_attention, and torch computes as ever.
_multi_head_attention_forward = with_names(
    F.multi_head_attention_forward, scaled_dot_product_attention=scaled_dot_product_attention
)
