"""What the cases run on: ours, and the peers. One file each; `PROVIDERS` lists them in the order of the tables.

A provider has a `name`, `version()` (None: not installed), `why_not(case)` (a sentence, or None when it can) and
`prepare(call)`: the ways in which it can compute the call, of which the fastest is measured. Preparing is not timed:
masks are expanded, graphs compiled, operands laid out as the peer likes them best.
"""

from __future__ import annotations

from bench.providers.base import Prepared, Provider
from bench.providers.flash_attn import FlashAttn
from bench.providers.flex import Flex
from bench.providers.naive import Naive
from bench.providers.onnxruntime import OnnxRuntime
from bench.providers.openvino import OpenVino
from bench.providers.ours import Ours
from bench.providers.sdpa import CudnnSdpa, Sdpa
from bench.providers.xformers import Xformers

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

__all__ = ["PROVIDERS", "Prepared", "Provider"]
