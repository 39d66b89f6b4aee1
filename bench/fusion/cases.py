"""The cases of concat-fusion, and the group of goals that each answers.

Shapes are rows x features x results, K and N from 256 to 4096. fp16 runs on few small ones: torch's product takes long.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.case import DTYPES, Case
from bench.fusion.problems import Problem

FP32_FORWARD = "fusion fp32 forward"
HALF_FORWARD = "fusion bf16 and fp16 forward"
BOTH = "fusion forward+backward"
FULL = "fusion with norm, gelu, gate and residual"
SHARED = "fusion of one image vector with tokens"


def _problem(rows: int, sources: tuple[int, ...], out: int, full: bool = False) -> Problem:
    parts = "" if len(sources) == 2 else f" of {len(sources)}"
    name = f"fusion {'full ' if full else ''}{rows}x{sum(sources)}x{out}{parts}"
    return Problem(name, tuple((rows, features) for features in sources), out, full)


def _shared(batch: int, tokens: int, image: int, text: int, out: int) -> Problem:
    name = f"fusion image {batch}x1x{image}, text {tokens}x{text}"
    return Problem(name, ((batch, 1, image), (batch, tokens, text)), out)


_PLAIN: tuple[tuple[Problem, tuple[str, ...], tuple[str, ...]], ...] = (
    (_problem(64, (256, 256), 512), DTYPES, ("float32", "bfloat16")),
    (_problem(64, (2048, 2048), 4096), ("float32", "bfloat16"), ()),
    (_problem(256, (512, 512, 1024), 2048), ("float32",), ()),
    (_problem(512, (512, 512), 1024), DTYPES, ("float32", "bfloat16")),
    (_problem(512, (2048, 2048), 4096), ("float32",), ()),
    (_problem(616, (512, 512), 768), ("float32", "bfloat16"), ("float32",)),
    (_problem(1024, (512, 512, 512), 768), ("float32", "bfloat16"), ("float32", "bfloat16")),
    (_problem(2048, (256, 768), 1024), ("float32", "bfloat16"), ("float32",)),
    (_problem(8192, (128, 128), 256), DTYPES, ("float32",)),
    (_problem(8192, (512, 512), 512), ("float32", "bfloat16"), ()),
)
"""Problem, dtypes of the forward pass, dtypes of forward and backward."""
_FULL = (
    _problem(616, (512, 512), 768, full=True),
    _problem(1024, (512, 512, 512), 768, full=True),
    _problem(8192, (128, 128), 256, full=True),
)
_SHARED = (_shared(8, 77, 1024, 512, 768), _shared(32, 77, 768, 512, 512))


def cases() -> Iterator[Case]:
    """Every case."""
    for problem, forward, both in _PLAIN:
        for dtype in forward:
            yield Case(problem, dtype, False, (FP32_FORWARD if dtype == "float32" else HALF_FORWARD,))
        for dtype in both:
            yield Case(problem, dtype, True, (BOTH,))
    for group, problems in ((FULL, _FULL), (SHARED, _SHARED)):
        for problem in problems:
            for dtype, backward in (("float32", False), ("float32", True), ("bfloat16", False)):
                yield Case(problem, dtype, backward, (group,))
