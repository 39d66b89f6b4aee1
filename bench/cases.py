"""The cases: named problems, in a dtype and a direction, and the group of goals that each answers.

Not the full cross product. Every row of the goal table (bench/goals.py) has the cases that decide it; fp16 runs on half
of the shapes, since it differs from bf16 in one conversion. Three sweeps draw the plots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bench.inputs import Inputs
from bench.problems import Problem, named

DTYPES = ("float32", "bfloat16", "float16")
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
OWN_FP32, OWN_DENSE = "own fp32", "own dense"


@dataclass(frozen=True)
class Case:
    """One problem in one dtype and direction."""

    problem: Problem
    dtype: str
    backward: bool
    groups: tuple[str, ...]
    twins: tuple[tuple[str, Problem, str], ...] = ()
    """Further calls of ours, measured in the same rounds: label, problem, dtype."""
    cold: bool = False
    """Operands come from memory: as many copies take turns as caches cannot hold."""
    only: tuple[str, ...] | None = None
    """The providers to run; None: all."""
    check: bool = True
    """Whether the error against fp64 is measured."""
    device: str = "cpu"

    @property
    def direction(self) -> str:
        """In words."""
        return "forward+backward" if self.backward else "forward"

    @property
    def id(self) -> str:
        """A name, stable from run to run."""
        return f"{self.problem.name} | {SHORT[self.dtype]} | {self.direction}"

    def on(self, device: str) -> Case:
        """The same on another device."""
        return replace(self, device=device)

    def call(self, seed: int = 0) -> Call:
        """Its operands."""
        return make_call(self.problem, self.dtype, self.backward, seed, self.device)


@dataclass
class Call:
    """Operands of a case, leaves of gradients where it has a backward."""

    inputs: Inputs
    backward: bool
    grads: list[Tensor] = field(default_factory=list)
    """The gradient of every output."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the operands."""
        return self.inputs.dtype


def make_call(problem: Problem, dtype: str, backward: bool, seed: int = 0, device: str = "cpu") -> Call:
    """The operands of a problem, and random gradients of its outputs."""
    inputs = _moved(problem.make(getattr(torch, dtype), seed), device)
    if not backward:
        return Call(inputs, False)
    inputs = inputs.replaced({name: leaf.detach().requires_grad_() for name, leaf in inputs.leaves().items()})
    random = torch.Generator().manual_seed(seed + 1)
    dim_v = inputs.values[0].shape[-1]
    grads = []
    for query in inputs.queries:
        batch = query.shape[:1] if problem.function == "varlen" else (max(query.shape[0], problem.batch),)
        shape = (*batch, *query.shape[1:-1], dim_v)
        grads.append(torch.randn(shape, generator=random).to(inputs.dtype).to(device))
    return Call(inputs, True, grads)


def _moved(inputs: Inputs, device: str) -> Inputs:
    if device == "cpu":
        return inputs
    cuts = (None if cu is None else cu.to(device) for cu in (inputs.cu_seqlens_q, inputs.cu_seqlens_k))
    cu_q, cu_k = cuts
    mask = None if inputs.mask is None else inputs.mask.to(device)
    inputs = inputs.replaced({name: leaf.to(device) for name, leaf in inputs.leaves().items()})
    return replace(inputs, mask=mask, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)


# ---- the groups ----

FP32_FORWARD = "fp32 forward"
FP32_BOTH = "fp32 forward+backward"
HALF_FORWARD = "bf16 and fp16 forward"
HALF_BOTH = "bf16 and fp16 forward+backward"
TRAINING_EXTRAS = "dropout and bias, training"
MASKS = "masks"
DECODE = "decode"
FEW_QUERIES = "few queries"
TINY = "tiny problems"
MEMORY = "memory"
OTHERS = "others"
LENGTHS, HEAT_MAP = "sweep: lengths", "sweep: heat map"
SWEEPS = (LENGTHS, HEAT_MAP)

_DENSE = (
    "text-to-image 77x1024", "square 1024", "image-to-text 4096x77", "square 2048 D128", "Q-Former 32x257",
    "text-to-patches 128x577", "mllama 32x1601", "joint 512+4096 D128", "ViT 197", "Perceiver 512x4096 D261",
    "SAM tokens 7x4096 D16",
)  # fmt: skip
_IN_FP16 = ("text-to-image 77x1024", "square 1024", "text-to-patches 128x577", "mllama 32x1601", "ViT 197")
_DECODE = "decode 1x4096"
_FEW = ("Q-Former 32x257", "SAM tokens 7x4096 D16")
_MASKED = (
    "half padding 128x1024", "packed captions on patches", "packed images D80", "Flamingo 256x320 media", "window 2048",
    "causal 1024",
)  # fmt: skip
_WITH_DROPOUT = ("text-to-image 77x1024", "square 1024")
_LEARNED = ("learned bias 196", "Swin 49 learned bias", "T5 512 relative bias")
_OTHERS = ("bool mask 512x1024", "learned bias 196", "SAM 7x4096 D16", "ALiBi 577 causal")

LENGTHS_SWEPT = (64, 128, 256, 512, 1024, 2048, 4096)
HEAT_LENGTHS = (1, 16, 64, 256, 1024, 4096)


def _dense() -> Iterator[Case]:
    for dtype in DTYPES:
        for name in _DENSE:
            if dtype == "float16" and name not in _IN_FP16:
                continue
            problem = named(name)
            few = (FEW_QUERIES,) if name in _FEW else ()
            full = dtype == "float32"
            twins = () if full else ((OWN_FP32, problem, "float32"),)
            yield Case(problem, dtype, False, ((FP32_FORWARD if full else HALF_FORWARD), *few), twins)
            yield Case(problem, dtype, True, ((FP32_BOTH if full else HALF_BOTH), *few))


def _training_extras() -> Iterator[Case]:
    dropped = [replace(named(name), name=f"{name} dropout", dropout_p=0.1) for name in _WITH_DROPOUT]
    problems = [named("ViT 197 dropout"), *dropped, *(named(name) for name in _LEARNED)]
    for dtype in DTYPES:
        for problem in problems:
            if dtype != "float16" or problem.name in ("ViT 197 dropout", "learned bias 196", "T5 512 relative bias"):
                yield Case(problem, dtype, True, (TRAINING_EXTRAS,))


def without_mask(problem: Problem) -> Problem:
    """The same call with every pair visible; packed sequences as the padded batch."""
    if problem.function != "varlen":
        return replace(problem, mask=None)
    lens = (problem.q_len,), (problem.k_len,)
    return replace(problem, function="attention", batch=len(problem.q_lens), q_lens=lens[0], k_lens=lens[1])


def _masks() -> Iterator[Case]:
    for name in _MASKED:
        problem = named(name)
        for dtype, backward in (("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True)):
            yield Case(problem, dtype, backward, (MASKS,), ((OWN_DENSE, without_mask(problem), dtype),))


def _others() -> Iterator[Case]:
    for dtype in DTYPES:
        yield Case(named(_DECODE), dtype, False, (DECODE,), cold=True)
    for name in _OTHERS:
        for dtype in ("float32", "bfloat16"):
            yield Case(named(name), dtype, False, (OTHERS,))
    yield Case(named("bool mask 512x1024"), "float32", True, (OTHERS,))


def _sweeps() -> Iterator[Case]:
    for length in LENGTHS_SWEPT:
        problem = Problem(f"square {length}", (length,), (length,))
        yield Case(problem, "float32", False, (LENGTHS,), check=False)
    for length in LENGTHS_SWEPT:
        problem = Problem(f"square {length}", (length,), (length,))
        yield Case(problem, "bfloat16", True, (LENGTHS,), only=("mmkernels", "SDPA", "naive"), check=False)
    for rows in HEAT_LENGTHS:
        for keys in HEAT_LENGTHS:
            problem = Problem(f"{rows} x {keys}", (rows,), (keys,))
            yield Case(problem, "float32", False, (HEAT_MAP,), only=("mmkernels", "SDPA"), check=False)


def all_cases() -> list[Case]:
    """Every case once: one that several parts name answers to all of their groups."""
    found: dict[str, Case] = {}
    for part in (_dense(), _training_extras(), _masks(), _others(), _sweeps()):
        for case in part:
            if case.id in found:
                old = found[case.id]
                groups = tuple(dict.fromkeys((*old.groups, *case.groups)))
                found[case.id] = replace(old, groups=groups, twins=tuple(dict.fromkeys((*old.twins, *case.twins))))
            else:
                found[case.id] = case
    return list(found.values())
