"""The ways in which the same numbers can lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "transposed", "odd slice", "strided", "odd offset", "expanded rows", "expanded columns")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """A leaf of x's shape and, but for "expanded", its values, laid out as named; it wants gradients if x does.

    - "transposed": the first axis runs fastest, so that the last stride is not 1;
    - "odd slice": columns [1, K] of rows of 2 K + 1, whose starts are aligned to nothing;
    - "strided": every second column of such rows;
    - "odd offset": dense, one element behind the start of its storage;
    - "expanded rows", "expanded columns": the first row, or column, again and again, with a stride of 0.
    """
    data = x.detach()
    if data.dim() == 0 or layout == "contiguous":
        made = data.clone(memory_format=torch.contiguous_format)
    elif layout == "transposed":
        made = data.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)
    elif layout in ("odd slice", "strided"):
        width = data.shape[-1]
        # What lies between the elements must never be read: NaN shows it.
        room = data.new_full((*data.shape[:-1], 2 * width + 1), torch.nan)
        made = room[..., 1 : width + 1] if layout == "odd slice" else room[..., 1::2]
        made.copy_(data)
    elif layout == "odd offset":
        made = data.new_full((data.numel() + 1,), torch.nan)[1:].view(data.shape)
        made.copy_(data)
    elif layout == "expanded rows":
        made = data[:1].clone().expand(data.shape) if data.shape[0] else data.clone()
    elif layout == "expanded columns":
        made = data[..., :1].clone().expand(data.shape) if data.shape[-1] else data.clone()
    else:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}")
    return made.requires_grad_(x.requires_grad)
