"""The Triton backend of contrastive_loss on CPU tensors: Triton's interpreter, or that of PTX, in the GPU's place.

The public function, and with it the checks of tests/contrastive, run on it unchanged. bf16 is not for Triton's own: its
products multiply bit patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

from mmkernels.ops.contrastive import triton
from mmkernels.triton_launch import Device
from tests.backends import in_place_of
from tests.device.triton_interpreter import poisoned_memory


@contextmanager
def interpreted(host: ModuleType, band_pairs: int | None = None) -> Iterator[list[str]]:
    """`backend="triton"` launches by this host module meanwhile; yields the names of what was asked of it.

    band_pairs: pairs of a band, None for the host's own number.
    """
    asked: list[str] = []

    entry = triton._entry

    def noted(name: str, device: torch.device) -> Callable[..., Any]:
        asked.append(name)
        return entry(name, device)

    pairs = host.BAND_PAIRS if band_pairs is None else band_pairs
    with (
        patch.object(triton, "why_not", lambda problem: []),
        patch.object(triton, "_entry", noted),
        patch.object(triton, "_host", lambda: host),
        patch.object(host, "device_of", lambda device: Device("interpreter", 1)),
        patch.object(torch.cuda, "device", lambda device: nullcontext()),
        patch.object(host, "BAND_PAIRS", pairs),
        poisoned_memory(),
        in_place_of("triton", "contrastive_loss", triton),  # itself: what was chosen before is forgotten
    ):
        yield asked
