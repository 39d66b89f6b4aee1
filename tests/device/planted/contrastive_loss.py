"""Bugs of contrastive_loss's kernels of fp16, and the calls they are looked for in.

Tiles are 128 x 128, features come in slices of 32 through a ring of three.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from tests.contrastive.naive import Case
from tests.contrastive.rule import Expectation
from tests.device.contrastive import emulated
from tests.device.planted.planting import NUMBERS, RACE, Bug, Family, Planted

TILE, STATISTICS, SLOPES = (f"kernels/contrastive_{name}.h" for name in ("tile", "statistics", "slopes"))
GRADIENT, RING, CALL = "kernels/contrastive_gradient.h", "tile/accumulate.h", "tile/contrastive_call.h"


@dataclass(frozen=True)
class Problem:
    """A call; pairs of a band, 1 for a band of each row of tiles, 0 for the plan's own number."""

    case: Case
    band_pairs: int = 0
    grad: float | None = None
    """Of the loss, where it is not a random number."""
    opposed: bool = False
    """All logits are far below 0."""

    def operands(self) -> list[Tensor | None]:
        """Of fp16."""
        operands = self.case.operands(torch.float16)
        if self.opposed:
            with torch.no_grad():
                for operand, sign in zip(operands[:2], (1, -1), strict=True):
                    operand.copy_(sign * (1.0 + 0.1 * operand.abs()))
        return operands


PROBLEMS = {
    "softmax": Problem(Case(40, 45, 100, "softmax", "index", 0.1)),
    "softmax, pairs": Problem(Case(40, 40, 17, "softmax", "pairs", reduction="none")),
    "softmax, several": Problem(Case(150, 140, 40, "softmax", "several", 0.1, "sum")),
    "softmax, bands": Problem(Case(150, 140, 40, "softmax", "several", 0.1), 1),
    "softmax, far": Problem(Case(150, 140, 24, "softmax", "index", 0.1, scale=300.0)),
    "softmax, below 0": Problem(Case(40, 35, 24, "softmax", "index", 0.1, length=10.0), opposed=True),
    "sigmoid": Problem(Case(40, 45, 100, "sigmoid", "index", 0.1)),
    "sigmoid, bands": Problem(Case(150, 140, 40, "sigmoid", "several", 0.1), 1),
    "sigmoid, small": Problem(Case(40, 40, 33, "sigmoid", scale=1000.0, bias=-3.0, length=0.1), grad=1e-6),
}


def bug(file: str, old: str, new: str, problem: str, seen_by: tuple[str, ...] = NUMBERS) -> Planted:
    """One that stands at one place."""
    return Planted(Bug(file, old, new), problem, seen_by)


_WAIT = "    wait_copies<kStages - 2>();\n    sync_block();\n"
_POSITIVE = "if (Base::positive(r, n, e)) dx -= row[r].hit + column[3].x[e];"

PRODUCTS = {
    "no wait for copies": bug(RING, _WAIT, "    sync_block();\n", "softmax", RACE),
    "waits for one group fewer": bug(RING, _WAIT, _WAIT.replace("- 2", "- 1"), "softmax", RACE),
    "no barrier in the ring": bug(RING, _WAIT, "    wait_copies<kStages - 2>();\n", "softmax", RACE),
    "copies into the slice that is read": bug(
        RING, "copy(s + kStages - 1, next)", "copy(s + kStages - 1, stage)", "softmax", RACE
    ),
    "stages do not wrap": bug(
        RING, "next = next + 1 == kStages ? 0 : next + 1;", "next = next ^ 1;", "softmax", ("race", "numbers", "bounds")
    ),
    "right columns not transposed": bug(
        RING, "load_matrices_transposed(right, (own_b", "load_matrices(right, (own_b", "softmax"
    ),
    "left columns not transposed": bug(
        RING,
        "a.at(16 * k + lane / 16 * 8 + lane % 8, (first + 16 * m) / A::kChunkElements + lane / 8 % 2)",
        "a.at(16 * k + lane % 16, (first + 16 * m) / A::kChunkElements + lane / 16)",
        "softmax",
    ),
    "last slice forgotten": bug(TILE, "ceil_div(p.dim, kSlice)", "(p.dim / kSlice)", "softmax"),
    "rows beyond the last": bug(
        TILE, "from(slice * kSlice), 0, columns);", "from(slice * kSlice), 0, kColumns);", "softmax", ("bounds",)
    ),
    "features of the first slice": bug(
        TILE,
        "texts.from(slice * kSlice)",
        "texts.from(0)",
        "softmax",
        ("numbers", "bounds"),
    ),
    "the ring is still read": bug(TILE, "text(stage)); });\n    sync_block();", "text(stage)); });", "softmax", RACE),
}

POSITIVES = {
    "positives of the next column": bug(
        TILE,
        "bits = 1u << (column / 8 * 2 + column % 2);",
        "bits = 1u << (column / 8 * 2 + (column + 1) % 2);",
        "softmax",
    ),
    "positives of the first tile of columns": bug(
        TILE, "target_of(p, row) - column_first", "target_of(p, row)", "softmax, far"
    ),
    "positives of a matrix, of the first band": bug(
        TILE,
        "const int64_t row = row_first + row_of(r);",
        "const int64_t row = row_first - call.band_first + row_of(r);",
        "softmax, bands",
    ),
    "targets beyond the last column": bug(TILE, "column < columns && column % 8", "column % 8", "softmax, far"),
    "positives of a transposed matrix": bug(
        CALL,
        "(row * positives.row_stride + column * positives.column_stride)",
        "(column * positives.row_stride + row * positives.column_stride)",
        "softmax, several",
        ("numbers", "bounds"),
    ),
}

SUMS = {
    "logits outside": bug(STATISTICS, "ragged && !inside(r, n, e) ? -INFINITY : logit", "logit", "softmax"),
    "maximum of a column, of one row group": bug(
        STATISTICS,
        "mask = 4; mask < 32; mask *= 2) x = maximum",
        "mask = 8; mask < 32; mask *= 2) x = maximum",
        "softmax, far",
    ),
    "sum of a column, of one row group": bug(
        STATISTICS, "mask = 4; mask < 32; mask *= 2) x +=", "mask = 8; mask < 32; mask *= 2) x +=", "softmax"
    ),
    "sum of a row, of one lane": bug(STATISTICS, "      sum = quad_sum(sum);\n", "", "softmax"),
    "warps' sums not rescaled": bug(
        STATISTICS,
        "exp2_approx((load<float>(part(warp, 0, column)) - shift) * kLog2E), sum)",
        "1.0f, sum)",
        "softmax, far",
    ),
    "warps' parts are not yet there": bug(
        STATISTICS,
        "    sync_block();\n    for (int column = thread_index()",
        "    for (int column = thread_index()",
        "softmax",
        ("race", "uninitialised"),
    ),
    "bands before forgotten": bug(STATISTICS, "column, call.first_band,\n", "column, true,\n", "softmax, bands"),
    "logarithm after every band": bug(
        STATISTICS, "            call.last_band);", "            true);", "softmax, bands"
    ),
    "last tile of columns": bug(
        STATISTICS,
        "i, call.column_tiles, call.band_rows",
        "i, call.column_tiles - 1, call.band_rows",
        "softmax, several",
    ),
    "total of what is outside": bug(STATISTICS, "total += load<float>(part(warp, 3, column));", "", "softmax"),
}

SLOPES_OF_PAIRS = {
    "columns' numbers are not yet there": bug(
        SLOPES,
        "store(column_number(i, c), numbers[i]);\n    }\n    sync_block();",
        "store(column_number(i, c), numbers[i]);\n    }",
        "softmax",
        ("race", "uninitialised"),
    ),
    "columns' numbers are still read": bug(
        SLOPES, "    sync_block();  // the columns' numbers have been read\n", "", "softmax", RACE
    ),
    "gradient of the columns": bug(
        SLOPES, "fused(by_row, row[r].grad, by_column * column[2].x[e])", "by_row * row[r].grad", "softmax"
    ),
    "positives of a column": bug(SLOPES, _POSITIVE, _POSITIVE.replace(" + column[3].x[e]", ""), "softmax"),
    "label smoothing of a row": bug(SLOPES, "dx -= row[r].level + column[4].x[e];", "dx -= column[4].x[e];", "softmax"),
    "slopes outside": bug(SLOPES, "dx = inside(r, n, e) ? dx : 0.0f;", "", "softmax, below 0"),
    "sigmoid: sign of positives": bug(SLOPES, "dx = positive ? -dx : dx;", "", "sigmoid"),
    "sigmoid: smoothing of the loss": bug(
        SLOPES, "p.smoothing != 0.0f ? fused(y, -half, softplus(y)) : softplus(y)", "softplus(y)", "sigmoid"
    ),
    "sigmoid: smoothing of a slope": bug(SLOPES, "(sigmoid(y) - half) * grad", "sigmoid(y) * grad", "sigmoid"),
    "sigmoid: losses outside": bug(SLOPES, "loss += exists ? term : 0.0f;", "loss += term;", "sigmoid"),
    "sigmoid: bias": bug(SLOPES, "logit = fused(dot, scale, bias);", "logit = dot * scale;", "sigmoid"),
    "sums: parts of lanes are not yet there": bug(
        SLOPES, "      sync_warp();\n      if (part == 0)", "      if (part == 0)", "softmax", ("race", "uninitialised")
    ),
    "sums: slopes over sums": bug(
        SLOPES,
        "2 * (call.tiles_before + block_index_x()) + which, whole);\n      }\n    }\n    sync_block();",
        "2 * (call.tiles_before + block_index_x()) + which, whole);\n      }\n    }",
        "softmax",
        RACE,
    ),
    "sums: tiles of the first band": bug(
        SLOPES, "2 * (call.tiles_before + block_index_x())", "2 * block_index_x()", "softmax, bands"
    ),
    "sums: one thread of each part": bug(SLOPES, "i < kEach; ++i) sum", "i < 1; ++i) sum", "softmax"),
    "losses of the first tile": bug(SLOPES, "static_cast<int64_t>(tile) * call.band_rows + i)", "i)", "sigmoid, bands"),
    "range of a band": bug(SLOPES, "254 + kTop - exponent", "254 + kTop - exponent + 6", "softmax"),
    "range not set": bug(
        SLOPES,
        "store(global<uint32_t>(static_cast<void*>(call.range)), factor << 23);",
        "store(global<uint32_t>(static_cast<void*>(call.range)), 127u << 23);",
        "sigmoid, small",
    ),
}

GRADIENTS = {
    "text: bands before forgotten": bug(
        GRADIENT, "      if (!call.first_band) x += load_written(carry);\n", "", "softmax, bands"
    ),
    "text: image of the first band": bug(GRADIENT, "kOfText ? call.band_first : 0;", "0;", "sigmoid, bands"),
    "image: rows of the first band": bug(
        GRADIENT, "((kOfText ? 0 : call.band_first) + row) * p.dim", "row * p.dim", "softmax, bands"
    ),
    "not brought back to range": bug(GRADIENT, "x * inverse * scale", "x * scale", "softmax"),
    "without scale": bug(GRADIENT, "x * inverse * scale", "x * inverse", "sigmoid"),
    "features beyond the last": bug(
        GRADIENT, "if (column < p.dim) write", "write", "softmax", ("bounds", "race", "numbers")
    ),
    "rows of a gradient beyond the last": bug(
        GRADIENT, "      if (row >= length(call)) continue;\n", "", "softmax", ("bounds", "race", "numbers")
    ),
    "depth beyond the last": bug(
        GRADIENT, "smaller<int64_t>(depth - begin, kSlice)", "kSlice", "softmax", ("bounds", "numbers")
    ),
}


@cache
def expectation(name: str) -> Expectation:
    """Of a problem."""
    problem = PROBLEMS[name]
    grad = None if problem.grad is None else torch.tensor(problem.grad)
    return Expectation(problem.case, problem.operands(), grad)


def fault(module: ModuleType, emulator: ModuleType, name: str, seed: int) -> str:
    """See Family."""
    expected = expectation(name)
    with emulated(module, seed=seed, band_pairs=PROBLEMS[name].band_pairs) as device:
        found = expected.run("cuda")
    assert device.launches, "no kernel ran"
    return "numbers" if expected.faults(found) else ""


FAMILY = Family(
    "contrastive_loss",
    "bind_contrastive",
    ("contrastive",),
    PROBLEMS,
    PRODUCTS | POSITIVES | SUMS | SLOPES_OF_PAIRS | GRADIENTS,
    fault,
)
