"""mmkernels: attention, concat-fusion and contrastive kernels for multimodal models, for PyTorch.

``import mmkernels as mmk``. Nothing is patched on import; ``mmk.nn``, ``mmk.models`` and
``mmk.integrations`` are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from mmkernels.backend import backends
from mmkernels.bias import DecomposedBias, RelativeBias
from mmkernels.mask import Mask
from mmkernels.ops.attention.api import (
    attention,
    attention_varlen,
    explain,
    joint_attention,
    scaled_dot_product_attention,
)
from mmkernels.ops.contrastive.api import contrastive_loss
from mmkernels.ops.fusion.api import concat_fusion
from mmkernels.ops.fusion.norm import LayerNorm, RMSNorm

__version__ = "0.1.0"

__all__ = [
    "DecomposedBias",
    "LayerNorm",
    "Mask",
    "PatchReport",
    "RMSNorm",
    "RelativeBias",
    "__version__",
    "attention",
    "attention_varlen",
    "backends",
    "concat_fusion",
    "contrastive_loss",
    "explain",
    "integrations",
    "joint_attention",
    "models",
    "nn",
    "override_sdpa",
    "patch",
    "scaled_dot_product_attention",
]

_LAZY = ("integrations", "models", "nn")
_LAZY_NAMES = ("PatchReport", "override_sdpa", "patch")  # of integrations


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f"{__name__}.integrations"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_NAMES})
