"""SAM's vision tower: relative positions of rows and columns as `DecomposedBias`, never as a matrix of the patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkernels.bias import DecomposedBias
from mmkernels.integrations.stand_ins.common import attend
from mmkernels.nn.common import split_heads


def _vision(cls: Any) -> type:
    class VisionAttention(cls):
        """Over a window's or the image's patches, a (height, width) grid."""

        def forward(self, hidden_states: Tensor, output_attentions: Any = None) -> Any:
            if output_attentions:
                return super().forward(hidden_states, output_attentions)
            height, width = hidden_states.shape[1:3]
            q, k, v = split_heads(self.qkv(hidden_states.flatten(1, 2)), self.num_attention_heads, 3)
            bias = None
            if self.use_rel_pos:
                grid = q.unflatten(2, (height, width))
                rows = self.get_rel_pos(height, height, self.rel_pos_h)  # (query row, key row, D)
                columns = self.get_rel_pos(width, width, self.rel_pos_w)
                bias = DecomposedBias(
                    torch.einsum("bnhwc,hkc->bnhwk", grid, rows).flatten(2, 3),
                    torch.einsum("bnhwc,wkc->bnhwk", grid, columns).flatten(2, 3),
                )
            dropout_p = self.dropout if self.training else 0.0
            out = attend(q, k, v, None, dropout_p, self.scale, bias)
            return self.proj(out.unflatten(1, (height, width))), None

    return VisionAttention


_SAM = "transformers.models.sam.modeling_sam."
_SAM_HQ = "transformers.models.sam_hq.modeling_sam_hq."

SERVES = {
    _SAM + "SamVisionAttention": _vision,
    _SAM + "SamVisionSdpaAttention": _vision,
    _SAM_HQ + "SamHQVisionAttention": _vision,
    _SAM_HQ + "SamHQVisionSdpaAttention": _vision,
}
