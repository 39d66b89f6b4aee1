"""What attention runs on: ours, and the peers. One file each; `PROVIDERS` lists them in the order of the tables.

Preparing is not timed: masks are expanded, graphs compiled, operands laid out as the peer likes them best.
"""

from __future__ import annotations

from bench.attention.providers.flash_attn import FlashAttn
from bench.attention.providers.flex import Flex
from bench.attention.providers.naive import Naive
from bench.attention.providers.onnxruntime import OnnxRuntime
from bench.attention.providers.openvino import OpenVino
from bench.attention.providers.ours import Ours
from bench.attention.providers.sdpa import CudnnSdpa, Sdpa
from bench.attention.providers.xformers import Xformers
from bench.provider import Provider

PROVIDERS: tuple[Provider, ...] = (
    Ours(),
    Sdpa(),
    Naive(),
    Flex(),
    OnnxRuntime(),
    OpenVino(),
    FlashAttn(),
    Xformers(),
    CudnnSdpa(),
)
