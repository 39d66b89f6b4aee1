"""Modules over the ops: attention between and within modalities, and fusion of their features.

Every module has the attribute `backend` (None: the first that can); `set_backend` sets it in a whole model.
"""

from mmkernels.nn.bilinear import LowRankBilinearFusion
from mmkernels.nn.bottleneck import BottleneckFusion
from mmkernels.nn.common import set_backend
from mmkernels.nn.cross import CrossAttention, GatedCrossAttention, SelfAttention
from mmkernels.nn.fusion import ConcatFusion
from mmkernels.nn.gated import GatedMultimodalUnit, ParallelFusion
from mmkernels.nn.joint import JointAttention
from mmkernels.nn.multihead import MultiheadAttention

__all__ = [
    "BottleneckFusion",
    "ConcatFusion",
    "CrossAttention",
    "GatedCrossAttention",
    "GatedMultimodalUnit",
    "JointAttention",
    "LowRankBilinearFusion",
    "MultiheadAttention",
    "ParallelFusion",
    "SelfAttention",
    "set_backend",
]
