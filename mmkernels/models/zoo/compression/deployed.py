"""A trained system on the disk without what only training needs: no optimizer, no generator, no second weights."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch

from mmkernels.models.config import one_of
from mmkernels.models.sealed import kind_of
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.compression.int8 import load_plain_tensors, plain_tensors, quantize
from mmkernels.models.zoo.system import System

PRECISIONS = ("fp32", "int8")


@dataclass(kw_only=True)
class Deployed(ZooCheckpoint):
    """A checkpoint that serves, and cannot go on. `precision`: of the weights of its linear layers."""

    KIND: ClassVar[str] = "zoo weights"

    precision: str = "fp32"

    def __post_init__(self) -> None:
        one_of("precision", self.precision, PRECISIONS)

    def pack(self) -> dict[str, Any]:
        return {**super().pack(), "precision": self.precision}

    @classmethod
    def unpack(cls, header: dict[str, Any]) -> dict[str, Any]:
        return {**super().unpack(header), "precision": header["precision"]}

    def build_model(self, backend: str | None) -> System:
        system = System(self.config, self.sizes, self.objectives, backend)
        if self.precision == "int8":
            quantize(system)
        load_plain_tensors(system, self.model)
        return system


def deploy(saved: ZooCheckpoint, precision: str = "fp32") -> Deployed:
    """What is left of a checkpoint where nothing is to be learnt any more.

    Raises:
        ValueError: no such precision, or torchao is not installed.
    """
    one_of("precision", precision, PRECISIONS)
    system = saved.build_model(None)
    if precision == "int8":
        quantize(system)
    kept = {f.name: getattr(saved, f.name) for f in fields(ZooCheckpoint)}
    dropped: dict[str, Any] = {"optimizer": {}, "best": {}, "torch_rng": torch.empty(0, dtype=torch.uint8)}
    return Deployed(**{**kept, **dropped, "model": plain_tensors(system), "precision": precision})


def load_any(path: Path) -> ZooCheckpoint:
    """A checkpoint of the zoo, or a deployed one.

    Raises:
        ValueError: it cannot be read; in one sentence.
    """
    return (Deployed if kind_of(path) == Deployed.KIND else ZooCheckpoint).load(path)
