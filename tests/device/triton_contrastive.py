"""The Triton contrastive_loss kernels as a backend on CPU tensors: Triton's interpreter in the GPU's place.

`interpreted(host)` puts it where the "triton" backend stands, so that the public function, and with it the checks of
tests/contrastive, run on it unchanged. bf16 is not for it: its products multiply bit patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmkernels import backend as backends
from mmkernels.ops.contrastive import native_call
from mmkernels.ops.contrastive.native_call import number
from mmkernels.ops.contrastive.statistics import Side, Statistics
from tests.device.triton_interpreter import poisoned_memory


@dataclass
class Interpreted:
    """A backend module as `mmkernels.backend` wants it."""

    host: ModuleType
    launches: int = 0

    def why_not(self, problem: Any) -> list[str]:
        """Nothing."""
        return []

    def statistics(
        self, image: Tensor, text: Tensor, logit_scale: Tensor, targets: Tensor | None, totals: bool
    ) -> tuple[Statistics, Statistics]:
        """Of every row and of every column."""
        with poisoned_memory():
            scale = number(logit_scale, image)
            return native_call.statistics(self._entry("statistics"), image, text, scale, targets, totals)

    def gradients(
        self,
        image: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        targets: Tensor | None,
        row_side: Side,
        column_side: Side,
        levels: bool,
        needs: Sequence[bool],
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of image, text and logit_scale."""
        with poisoned_memory():
            return native_call.gradients(
                self._entry("gradients"), image, text, number(logit_scale, image), targets, row_side, column_side,
                levels, needs, dtype,
            )  # fmt: skip

    def sigmoid(
        self,
        image: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
        targets: Tensor | None,
        label_smoothing: float,
        row_grad: Tensor | None,
        needs: Sequence[bool],
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The loss of every row, and gradients."""
        scale, bias = number(logit_scale, image), None if logit_bias is None else number(logit_bias, image)
        with poisoned_memory():
            return native_call.sigmoid(
                self._entry("sigmoid"), image, text, scale, bias, targets, label_smoothing, row_grad, needs, dtype
            )

    def _entry(self, name: str) -> Callable[..., Any]:
        self.launches += 1
        return partial(getattr(self.host, name), "interpreter")


@contextmanager
def interpreted(host: ModuleType, band_pairs: int | None = None) -> Iterator[Interpreted]:
    """`backend="triton"` is the interpreter meanwhile; `band_pairs`: None for the host's own number."""
    module = Interpreted(host)
    backend, pairs = backends._backends["contrastive_loss"], host.BAND_PAIRS
    backends.register("contrastive_loss", backend | {"triton": module})
    host.BAND_PAIRS = pairs if band_pairs is None else band_pairs
    try:
        yield module
    finally:
        backends.register("contrastive_loss", backend)
        host.BAND_PAIRS = pairs
