"""torchvision beside a CPU build of torch, for the libraries that import it."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

_KEPT = []


@functools.cache
def declare_missing_ops() -> None:
    """Make torchvision importable where its compiled ops do not load.

    PyPI's wheels are built for CUDA builds of torch, and their Python asks on import that two ops be declared. Nothing
    that is tested calls them: they get no kernel.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        for library in Path(spec.origin).parent.glob("_C.*"):
            torch.ops.load_library(library)
    except OSError:
        _KEPT.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _KEPT[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
