"""Modules over the ops: attention between and within modalities, and fusion by concatenation.

Every module has the attribute `backend` (None: the first that can); `set_backend` sets it in a whole model.
"""

from mmkernels.nn.common import set_backend
from mmkernels.nn.cross import CrossAttention, GatedCrossAttention, SelfAttention
from mmkernels.nn.fusion import ConcatFusion
from mmkernels.nn.joint import JointAttention
from mmkernels.nn.multihead import MultiheadAttention

__all__ = [
    "ConcatFusion",
    "CrossAttention",
    "GatedCrossAttention",
    "JointAttention",
    "MultiheadAttention",
    "SelfAttention",
    "set_backend",
]
