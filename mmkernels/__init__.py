"""mmkernels: attention, concat-fusion and contrastive kernels for multimodal models, for PyTorch.

``import mmkernels as mmk``. Nothing is patched on import; ``mmk.nn`` and ``mmk.models`` are loaded when first used.
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

__version__ = "0.1.0"

__all__ = [
    "DecomposedBias",
    "Mask",
    "RelativeBias",
    "__version__",
    "attention",
    "attention_varlen",
    "backends",
    "explain",
    "joint_attention",
    "models",
    "nn",
    "scaled_dot_product_attention",
]

_LAZY = ("models", "nn")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
