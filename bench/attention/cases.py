"""The cases of attention: named problems, in a dtype and a direction, and the group of goals that each answers.

fp16 runs on half of the shapes, since it differs from bf16 in one conversion. Three sweeps draw the plots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.attention.problems import Problem, named
from bench.case import DTYPES, OTHERS, Case

OWN_FP32, OWN_DENSE = "own fp32", "own dense"


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


def cases() -> Iterator[Case]:
    """Every case; one that several parts name comes several times."""
    yield from (*_dense(), *_training_extras(), *_masks(), *_others(), *_sweeps())
