"""Bugs of concat_fusion's kernels of fp16, forward and backward, and the calls they are looked for in.

Tiles are small, 64 x 64, the depth goes in steps of 64, and sums over rows in chunks of 256 or, in a product, 1024.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch

from tests.device.fusion import emulated
from tests.device.planted.planting import NUMBERS, RACE, Bug, Family, Planted
from tests.fusion.naive import Case
from tests.fusion.rule import Expectation

FORWARD, ROWS, SUMS = "kernels/concat_fusion.h", "kernels/fusion_rows.h", "kernels/fusion_sums.h"
GRADIENTS, PRODUCT, NORMALISED = "kernels/fusion_gradients.h", "tile/block_product.h", "tile/normalised_rows.h"

PROBLEMS = {
    "whole chunks": Case(((70, 64), (70, 128)), 72, activation="silu", gate=(72,), residual=(70, 72)),
    "odd widths": Case(((70, 65), (70, 7)), 66, activation="gelu"),
    "shared": Case(((2, 35, 6), (2, 1, 5)), 17, activation="gelu", gate=(35, 1), residual=(2, 1, 17)),
    "gates": Case(((2, 9, 6),), 17, activation="gelu", gate=(2, 1, 17)),
    "layer": Case(((70, 64), (70, 16)), 72, norm="layer", activation="silu", gate=(72,)),
    "layer, odd": Case(((70, 65), (70, 7)), 17, norm="layer"),
    "layer, shared": Case(((2, 35, 6), (2, 1, 5), (7,)), 17, norm="layer", activation="tanh"),
    "layer, few shared": Case(((2, 3, 5), (2, 1, 4)), 17, norm="layer"),
    "rms": Case(((9, 15), (9, 33)), 17, norm="rms", activation="sigmoid"),
    "small": Case(((9, 40), (9, 24)), 17, norm="layer", size=0.01),
    "far from zero": Case(((9, 300),), 17, norm="layer", offset=20.0),
    "chunks of rows": Case(((2, 300, 6), (2, 1, 5)), 8, activation="gelu"),
    "chains of a product": Case(((1100, 6),), 5),
    "no columns": Case(((9, 6), (9, 0), (9, 5)), 17),
}


def bug(file: str, old: str, new: str, problem: str, seen_by: tuple[str, ...] = NUMBERS, times: int = 1) -> Planted:
    """A change of one text."""
    return Planted(Bug(file, old, new, times), problem, seen_by)


_WAIT = "      wait_copies<0>();\n      sync_block();\n"
_GATE = "if (call.gate.data) d *= read_number(call.gate.data, call.gate.dtype, gate + n * call.gate.column);"

PRODUCTS = {
    "no wait for copies": bug(PRODUCT, _WAIT, "      sync_block();\n", "whole chunks", RACE),
    "waits for all groups but one": bug(PRODUCT, _WAIT, _WAIT.replace("<0>", "<1>"), "whole chunks", RACE),
    "no barrier in the ring": bug(PRODUCT, _WAIT, "      wait_copies<0>();\n", "whole chunks", RACE),
    "stages into the tiles that are read": bug(
        PRODUCT, "stage(left(now ^ 1), right(now ^ 1))", "stage(left(now), right(now))", "whole chunks", RACE
    ),
    "sums over tiles that are read": bug(
        PRODUCT, "    sync_block();  // the last tiles have been read\n", "", "whole chunks", RACE
    ),
    "sums are not yet there": bug(
        PRODUCT,
        "Two{sums.at[m][n][2 * half], sums.at[m][n][2 * half + 1]});\n    sync_block();",
        "Two{sums.at[m][n][2 * half], sums.at[m][n][2 * half + 1]});",
        "whole chunks",
        ("race", "uninitialised"),
    ),
    "left rows across": bug(
        PRODUCT,
        "a.at(lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2)",
        "a.at(lane % 16, row / 8 + lane / 16)",
        "whole chunks",
    ),
    "right rows along": bug(
        PRODUCT,
        "b.at(column + lane % 8 + lane / 16 * 8, lane / 8 % 2)",
        "b.at(column + lane % 16, lane / 16)",
        "whole chunks",
    ),
    "right columns not transposed": bug(
        PRODUCT,
        "load_matrices_transposed(right, (own_b ^ (n * 32))",
        "load_matrices(right, (own_b ^ (n * 32))",
        "whole chunks",
    ),
    "chains added twice": bug(
        PRODUCT,
        "total.at[m][n][j] += sums.at[m][n][j];\n    sums.clear();",
        "total.at[m][n][j] += sums.at[m][n][j];",
        "chains of a product",
    ),
    "the last chain forgotten": bug(PRODUCT, "      merge(total, sums);\n      write", "      write", "layer"),
    "rows beyond the last": bug(
        PRODUCT,
        "const bool inside = Own::row(i) < count && in_width;",
        "const bool inside = in_width;",
        "whole chunks",
        ("bounds", "numbers"),
    ),
    "columns beyond the last": bug(
        PRODUCT,
        "smaller<int64_t>(width - column, Tile::kChunkElements)",
        "Tile::kChunkElements",
        "odd widths",
        ("bounds", "numbers"),
    ),
}

FORWARDS = {
    "weight of the first source": bug(
        FORWARD, "global<T>(call.weight) + s.first, weight_at", "global<T>(call.weight), weight_at", "odd widths"
    ),
    "a step too many": bug(
        FORWARD,
        "steps += static_cast<int>(ceil_div(call.sources[i].width, kDepth))",
        "steps += static_cast<int>(call.sources[i].width / kDepth + 1)",
        "whole chunks",
        ("pointer", "alignment", "bounds", "read-only", "numbers"),  # a source beyond the last is whatever is there
    ),
    "product of the first shared row": bug(
        FORWARD, "(row_offset(call.space, s.stride, row) + column));", "(column));", "shared"
    ),
    "a shared source forgotten": bug(FORWARD, "if (s.multiplied) u +=", "if (s.multiplied && i == 0) u +=", "shared"),
    "activation of u": bug(FORWARD, "activate(call.activation, z)", "activate(call.activation, u)", "gates"),
    "gate of the first column": bug(FORWARD, "gate + column * call.gate.column", "gate", "gates"),
    "gate and residual exchanged": bug(
        FORWARD,
        "if (call.gate.data) y *= read_number",
        "if (call.gate.data && !call.residual.data) y *= read_number",
        "shared",
    ),
    "result beyond the last column": bug(
        FORWARD,
        "c < kColumns && first_column + c < call.out",
        "c < kColumns",
        "odd widths",
        ("bounds", "race", "numbers"),
    ),
    "norm's weight of the first source": bug(FORWARD, "call.norm_weight + s.first", "call.norm_weight", "layer"),
    "mean not subtracted": bug(
        NORMALISED, "(widen(chunk.element[e]) - mean) * rstd", "widen(chunk.element[e]) * rstd", "layer"
    ),
    "mean not subtracted from tails": bug(
        NORMALISED, "(x - mean_of(row)) * rstd_of(row)", "x * rstd_of(row)", "layer, odd"
    ),
    "statistics of the first rows": bug(NORMALISED, "(first_row + row)", "row", "layer", NUMBERS, 2),
    "mean without its guess": bug(ROWS, "+ row, guess + sum);", "+ row, sum);", "layer"),
    "squares around 0": bug(ROWS, "const float d = x - guess;", "const float d = x;", "far from zero"),
    "mean of one lane": bug(ROWS, "guess = warp_sum(guess) / width;", "guess = guess / width;", "far from zero"),
    "eps forgotten": bug(ROWS, "squares + call.eps", "squares", "small"),
    "norm's bias forgotten": bug(ROWS, "if (call.norm_bias) constant = fused", "if (false) constant = fused", "layer"),
}

BACKWARDS = {
    "derivative of the activation": bug(ROWS, "      d = activation_backward(call.activation, d, z);\n", "", "gates"),
    "derivative at u": bug(
        ROWS, "return constant ? u + load(global<float>(constant) + column) : u;", "return u;", "gates"
    ),
    "gate of dz": bug(ROWS, f"      {_GATE}\n", "", "gates"),
    "gate's gradient without activation": bug(
        ROWS, "fused(d, activate(call.activation, z), gate_sum)", "fused(d, z, gate_sum)", "shared"
    ),
    "gate's columns without activation": bug(SUMS, "if (call.product)\n", "if (false)\n", "gates"),
    "slope of a norm": bug(ROWS, "along_u * (rstd * rstd) / width", "along_u * rstd / width", "small"),
    "level of a norm": bug(GRADIENTS, "slope * (x - mean) - level;", "slope * (x - mean);", "layer"),
    "slope around 0": bug(GRADIENTS, "slope * (x - mean) - level;", "slope * x - level;", "far from zero"),
    "norm's weight of dx": bug(GRADIENTS, "if (call.norm_weight) dx *= load", "if (false) dx *= load", "layer"),
    "rstd of dx": bug(
        GRADIENTS, "load<float>(product.sum_at(r, c)) * rstd;", "load<float>(product.sum_at(r, c));", "small"
    ),
    "norm's weight of dW": bug(GRADIENTS, "if (call.norm_weight) q *= load", "if (false) q *= load", "layer"),
    "norm's bias of dW": bug(GRADIENTS, "if (call.norm_bias) q = fused", "if (false) q = fused", "layer"),
    "norm's gradient of the first outputs": bug(
        GRADIENTS, "(first / kGroup * call.total_width + column)", "column", "layer", ("numbers", "race")
    ),
    "outputs beyond the last": bug(
        GRADIENTS,
        "first_column + c < call.width; c += 32) {\n        const int64_t column = first_column + c;\n        float q",
        "true; c += 32) {\n        const int64_t column = first_column + c;\n        float q",
        "layer, odd",
        ("bounds", "race", "numbers"),
    ),
    "rows of a broadcast axis": bug(
        SUMS,
        "if (own[axis] == 0) {\n        row +=",
        "if (own[axis] == 0 && axis > 0) {\n        row +=",
        "layer, shared",
    ),
    "own row of the first": bug(SUMS, "first += rest % space.size[axis] * step;", "first += 0;", "shared"),
    "last chunk of rows": bug(
        SUMS, "smaller(start + kSumRows, call.sharing)", "start + kSumRows", "chunks of rows", ("bounds", "numbers")
    ),
    "chunks of rows not joined": bug(
        SUMS,
        "for (int64_t chunk = 1; chunk < call.chunks; ++chunk) sum",
        "for (int64_t chunk = 2; chunk < call.chunks; ++chunk) sum",
        "chunks of rows",
    ),
    "factor of a row": bug(
        SUMS, "call.factor ? load(global<float>(call.factor) + row) : 1.0f", "1.0f", "layer, shared"
    ),
    "centre of shared rows": bug(
        SUMS,
        "levels += fused(slope, centre - load(global<float>(call.mean) + row), ",
        "levels += fused(slope, 0.0f, ",
        "layer, few shared",
    ),
    "slopes of one lane's rows": bug(SUMS, "slopes = warp_sum(slopes);", "", "layer, shared"),
}


@cache
def expectation(name: str) -> Expectation:
    """Of a problem."""
    return Expectation(PROBLEMS[name], PROBLEMS[name].operands(torch.float16), rounded=True)


def fault(module: ModuleType, emulator: ModuleType, name: str, seed: int) -> str:
    """See Family."""
    expected = expectation(name)
    with emulated(module, seed=seed) as device:
        found = expected.run("cuda")
    assert [direction for direction, _ in device.launches] == ["forward", "backward"]
    return "numbers" if expected.faults(found) else ""


FAMILY = Family(
    "concat_fusion", "bind_fusion", ("fusion", "attention_arrays"), PROBLEMS, PRODUCTS | FORWARDS | BACKWARDS, fault
)
