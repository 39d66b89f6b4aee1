"""The CUDA contrastive_loss kernels on CPU tensors: the emulator (docs/kernels/emulator.md) in the GPU's place.

`emulated(emulator)` puts it where the "cuda" backend stands, so that the public function, and with it the checks of
tests/contrastive, run on it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmkernels.layout import unit_last_stride
from mmkernels.ops.contrastive.statistics import Side, Statistics
from tests.backends import in_place_of
from tests.device.attention import NAMES, array


@dataclass
class Emulated:
    """A backend module as `mmkernels.backend` wants it."""

    emulator: ModuleType
    seed: int = 0
    band_pairs: int | None = None
    """Pairs of a band; None for the plan's own number."""
    launches: list[int] = field(default_factory=list)
    """How many kernels each call launched."""

    def why_not(self, problem: Any) -> list[str]:
        """Nothing."""
        return []

    def statistics(
        self, image: Tensor, text: Tensor, logit_scale: Tensor, targets: Tensor | None, totals: bool
    ) -> tuple[Statistics, Statistics]:
        """Of every row and of every column."""
        lengths = image.shape[0], text.shape[0]
        if 0 in lengths:
            return Statistics.of_nothing(lengths[0], image, totals), Statistics.of_nothing(lengths[1], text, totals)
        row, column = (_unwritten((4 if totals else 3, n), torch.float32) for n in lengths)
        call = _call(image, text, logit_scale, targets)
        self._run("contrastive_statistics", call, row_statistics=row, column_statistics=column)
        first, second = (Statistics(s[:2], s[2], s[3] if totals else None) for s in (row, column))
        return first, second

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
        call = _call(image, text, logit_scale, targets)
        call |= {"levels": levels, "row_side": _numbers(torch.stack(row_side))}
        call["column_side"] = _numbers(torch.stack(column_side))
        of_image, of_text, sums = self._gradients(call, image, text, needs, dtype)
        return of_image, of_text, sums[0] if needs[2] else sums

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
        call = _call(image, text, logit_scale, targets)
        call |= {"sigmoid": True, "smoothing": label_smoothing}
        if logit_bias is not None:
            call["bias"] = _numbers(logit_bias.reshape(1))
        if row_grad is not None:
            call["row_side"] = _numbers(row_grad)
        row_loss = _unwritten((image.shape[0] if needs[0] else 0,), torch.float32)
        if 0 in (image.shape[0], text.shape[0]):
            row_loss.zero_()
        if needs[0]:
            call["row_loss"] = array(row_loss)
        of_image, of_text, sums = self._gradients(call, image, text, needs[1:], dtype)
        scale, bias = (sums[i] if need else sums[:0] for i, need in enumerate(needs[3:]))
        return row_loss, of_image, of_text, scale, bias

    def _gradients(
        self, call: dict[str, Any], image: Tensor, text: Tensor, needs: Sequence[bool], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the call; gradients of image and text and the two sums, (0,) where nothing is needed."""
        nothing = 0 in (image.shape[0], text.shape[0])
        of_image, of_text = (
            _unwritten(tensor.shape if need else (0,), dtype)
            for tensor, need in zip((image, text), needs, strict=False)
        )
        sums = _unwritten((2 if needs[2] or needs[3] else 0,), torch.float64)
        if nothing:
            return of_image.zero_(), of_text.zero_(), sums.zero_()
        self._run("contrastive_gradients", call, grad_image=of_image, grad_text=of_text, sums=sums)
        return of_image, of_text, sums

    def _run(self, kernel: str, call: dict[str, Any], **outputs: Tensor) -> None:
        run = self.emulator.Run(seed=self.seed)
        call |= {name: array(tensor) for name, tensor in outputs.items() if tensor.numel()}
        pairs = {} if self.band_pairs is None else {"band_pairs": self.band_pairs}
        self.launches.append(getattr(self.emulator, kernel)(run, call, **pairs))


def _call(image: Tensor, text: Tensor, logit_scale: Tensor, targets: Tensor | None) -> dict[str, Any]:
    image, text = unit_last_stride(image), unit_last_stride(text)
    call: dict[str, Any] = {"dtype": NAMES[image.dtype], "image": array(image), "text": array(text)}
    call |= {"scale": _numbers(logit_scale.reshape(1)), "sigmoid": False, "smoothing": 0.0, "levels": False}
    if targets is not None:
        call["matrix" if targets.dtype == torch.bool else "index"] = array(targets)
    return call


def _numbers(tensor: Tensor) -> Any:
    return array(tensor.detach().float().contiguous())


def _unwritten(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """NaN, so that what no thread writes shows."""
    return torch.full(tuple(shape), torch.nan, dtype=dtype)


@contextmanager
def emulated(emulator: ModuleType, **options: Any) -> Iterator[Emulated]:
    """`backend="cuda"` is the emulator meanwhile."""
    with in_place_of("cuda", "contrastive_loss", Emulated(emulator, **options)) as module:
        yield module
