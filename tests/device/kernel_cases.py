"""One or two small ragged calls of every kernel, as checks that any device with the emulator's functions can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.contrastive.naive import Case as ContrastiveCase
from tests.contrastive.rule import Expectation as ContrastiveExpectation
from tests.device import attention, contrastive, fusion
from tests.device.interpreted import Interpreted
from tests.device.planted.attention_forward_problems import AT_THE_END, call, numbers, scattered, varlen
from tests.fusion.naive import Case as FusionCase
from tests.fusion.rule import Expectation as FusionExpectation
from tests.tolerance import Expectation

HALF, BFLOAT16, FLOAT = torch.float16, torch.bfloat16, torch.float32
Results = dict[str, Tensor]


@dataclass(frozen=True)
class KernelCase:
    """A call held to fp64 by the rule of its op."""

    run: Callable[[ModuleType | Interpreted, int], Results]
    """On a device, in the thread order of a seed; asserts the rule."""
    kernels: tuple[str, ...]
    """What must be launched, by the names of entry points and kernel types."""
    exact: bool = False
    """Whether all arithmetic is of fp32 and correctly rounded: the same bits in the emulator and the interpreter."""


@dataclass(frozen=True)
class AttentionCase:
    """`run` of an attention call."""

    make: Callable[[], Inputs]
    dtype: torch.dtype = HALF
    gradients: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, device: ModuleType | Interpreted, seed: int) -> Results:
        inputs = self.make()
        inputs = inputs.replaced({name: leaf.to(self.dtype) for name, leaf in inputs.leaves().items()})
        expected = Expectation(inputs, rounded=self.dtype != FLOAT)
        with attention.emulated(device, seed=seed, **self.options):
            found = plain.run(inputs, "cuda", expected.cotangents if self.gradients else None)
        expected.check_results(found)
        return found


@dataclass(frozen=True)
class FusionRun:
    """`run` of a concat_fusion call and its backward."""

    case: FusionCase
    dtype: torch.dtype = HALF
    processors: int = 1_000_000

    def __call__(self, device: ModuleType | Interpreted, seed: int) -> Results:
        expected = FusionExpectation(self.case, self.case.operands(self.dtype), rounded=self.dtype != FLOAT)
        with fusion.emulated(device, seed=seed, processors=self.processors):
            return expected.check("cuda")


@dataclass(frozen=True)
class ContrastiveRun:
    """`run` of a contrastive_loss call and its backward."""

    case: ContrastiveCase
    dtype: torch.dtype = HALF

    def __call__(self, device: ModuleType | Interpreted, seed: int) -> Results:
        with contrastive.emulated(device, seed=seed, band_pairs=1):
            return ContrastiveExpectation(self.case, self.case.operands(self.dtype)).check("cuda")


def everything() -> Inputs:
    """Bias, dense mask, softcap and dropout, over two segments."""
    options = {"softcap": 1.5, "dropout_p": 0.3, "seed": 11}
    return call(37, (90, 81), batch=2, heads=2, bias=numbers(1, 2, 37, 171), mask=scattered(), **options)


def causal() -> Inputs:
    """Two blocks of keys and a rest; rows of a tile that is not full."""
    return call(37, (171,), mask=AT_THE_END)


def small() -> Inputs:
    """The same with one block and a rest: products of fp32 are loops."""
    return call(20, (70,), mask=AT_THE_END)


FORWARD = ("attention_forward<", "AttentionForward<")
BACKWARD = ("attention_backward<", "AttentionDelta<", "AttentionBackwardQuery<", "AttentionBackwardKeys<")
GENERAL_BACKWARD = (*BACKWARD, "AttentionBackwardRows<", "AttentionBackwardBias<")
FUSION = (
    "fusion_entry<",
    "ConcatFusion<",
    "FusionSourceGradient<",
    "FusionWeightGradient<",
    "FusionSums<",
    "FusionJoin",
)
NORMALISED = (*FUSION, "FusionStatistics<", "FusionWeightSums<", "FusionSlopes<", "FusionSharedSlopes")
SLOPES = (
    "contrastive_loss<",
    "SlopesOfTile<",
    "ContrastiveGradientTile<",
    "MergeContrastiveSums",
    "FindContrastiveRange<",
)
SOFTMAX = (*SLOPES, "StatisticsOfTile<", "MergeContrastiveStatistics")
SIGMOID = (*SLOPES, "MergeContrastiveLosses")

PRODUCT = FusionCase(((35, 70), (35, 40)), 45, gate=(45,), residual=(35, 45))
NORM = FusionCase(((2, 35, 24), (2, 1, 35)), 40, norm="layer", activation="gelu", gate=(2, 35, 1))
KINKED = FusionCase(((2, 35, 24), (2, 1, 35)), 40, norm="layer", activation="relu", gate=(2, 35, 1))

CASES = {
    "plain": KernelCase(AttentionCase(causal, options={"kind": "plain"}), FORWARD),
    "plain, bf16": KernelCase(AttentionCase(causal, BFLOAT16, options={"kind": "plain"}), FORWARD),
    "plain, fp32": KernelCase(AttentionCase(small, FLOAT), FORWARD),
    "head dim 128": KernelCase(AttentionCase(lambda: call(37, (90,), dim=128, mask=AT_THE_END)), FORWARD),
    "few": KernelCase(AttentionCase(lambda: call(5, (100,), heads=4, heads_k=2, mask=AT_THE_END)), FORWARD),
    "odd strides": KernelCase(AttentionCase(lambda: call(16, (100,), dim=41, dim_v=23, skip=1, stride=67)), FORWARD),
    "splits": KernelCase(
        AttentionCase(lambda: call(5, (1000, 70), mask=AT_THE_END), options={"processors": 64}),
        (*FORWARD, "attention_merge<"),
    ),
    "varlen": KernelCase(AttentionCase(lambda: varlen((0, 20, 20, 57), (0, 30, 37, 137), 57, 137)), FORWARD),
    "general": KernelCase(AttentionCase(everything), FORWARD),
    "general, fp32": KernelCase(AttentionCase(everything, FLOAT), FORWARD),
    "backward": KernelCase(AttentionCase(causal, gradients=True), BACKWARD),
    "backward, fp32": KernelCase(AttentionCase(small, FLOAT, gradients=True), BACKWARD),
    "head dim 256, backward": KernelCase(
        AttentionCase(lambda: call(20, (40,), dim=256, mask=AT_THE_END), gradients=True), BACKWARD
    ),
    "general backward": KernelCase(AttentionCase(everything, gradients=True), GENERAL_BACKWARD),
    "relative bias": KernelCase(
        AttentionCase(
            lambda: call(37, (71,), heads=2, bias=mmk.RelativeBias(numbers(2, 107))), BFLOAT16, gradients=True
        ),
        GENERAL_BACKWARD,
    ),
    "fusion": KernelCase(FusionRun(PRODUCT), FUSION),
    "fusion, bf16, wide": KernelCase(FusionRun(PRODUCT, BFLOAT16, processors=1), FUSION),
    "fusion, fp32": KernelCase(FusionRun(PRODUCT, FLOAT), FUSION, exact=True),
    "norm": KernelCase(FusionRun(NORM), NORMALISED),
    "norm, fp32": KernelCase(FusionRun(KINKED, FLOAT), NORMALISED, exact=True),
    "softmax": KernelCase(ContrastiveRun(ContrastiveCase(35, 40, 33, "softmax", "index", 0.1)), SOFTMAX),
    "softmax, two bands": KernelCase(ContrastiveRun(ContrastiveCase(133, 40, 33, "softmax", "index", 0.1)), SOFTMAX),
    "softmax, fp32": KernelCase(
        ContrastiveRun(ContrastiveCase(70, 40, 33, "softmax", "several", 0.1), FLOAT), SOFTMAX
    ),
    "sigmoid": KernelCase(
        ContrastiveRun(ContrastiveCase(35, 40, 33, "sigmoid", "index", 0.1, "none"), BFLOAT16), SIGMOID
    ),
    "sigmoid, fp32": KernelCase(
        ContrastiveRun(ContrastiveCase(70, 40, 33, "sigmoid", "several", 0.0, "none"), FLOAT), SIGMOID
    ),
}  # fmt: skip
