"""Launches the Triton kernels of concat_fusion: takes and writes what the native libraries' entries do
(csrc/ops/fusion_entry.h), and reads no value of a tensor."""

from mmkernels.ops.fusion.triton_kernels.host_backward import backward
from mmkernels.ops.fusion.triton_kernels.host_forward import forward
from mmkernels.triton_launch import Device, device_of

__all__ = ["Device", "backward", "device_of", "forward"]
