"""Bugs of the attention forward's kernels of fp16 and head dim 64."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench.attention.inputs import Inputs
from tests.device.attention import emulated
from tests.device.planted.attention_forward_problems import PROBLEMS, Problem
from tests.device.planted.planting import BITS, ISOLATION, NUMBERS, OUTSIDE, RACE, Bug, Family, Planted
from tests.tolerance import Expectation

KERNEL, CALL, PRODUCT = "kernels/attention_forward.h", "tile/attention_call.h", "tile/product.h"
PAIRS, SCORES, SOFTMAX = "tile/pairs.h", "tile/scores.h", "tile/softmax.h"
TILE, VISIBLE = "tile/tile.h", "tile/visible.h"


def kernel(old: str, new: str, problem: str, seen_by: tuple[str, ...] = NUMBERS, file: str = KERNEL) -> Planted:
    """One that stands at one place."""
    return Planted(Bug(file, old, new), problem, seen_by)


_WAIT = "      wait_copies<0>();\n      sync_block();\n"
_INFO_STORED = "        store(info_at(r), SeenRow{row.inside ? row.head : -1, row.query, sees});\n      }\n    }\n"
_ADDEND_STORED = "source.offset, first + column));\n    }\n"
_WORDS_STORED = "    store(words + (warp_index() * 8u + 4u), own.full);\n  }\n"
_LAST_WAIT = "    commit_copies();\n    wait_copies<0>();\n"
_OWN_WORDS = "c.at[m][2 * k + i / 2][i % 2 * 2], c.at[m][2 * k + i / 2][i % 2 * 2 + 1]"
_SWAPPED_WORDS = "c.at[m][2 * k + i % 2][i / 2 * 2], c.at[m][2 * k + i % 2][i / 2 * 2 + 1]"

SYNCHRONISATION = {
    "no wait for copies": kernel(_WAIT, "      sync_block();\n", "causal", RACE),
    "waits for all groups but one": kernel(_WAIT, _WAIT.replace("<0>", "<1>"), "causal", RACE),
    "no barrier in the ring": kernel(_WAIT, "      wait_copies<0>();\n", "causal", RACE),
    "no commit": kernel("      commit_copies();\n      return", "      return", "causal", RACE),
    "copies into the stage that is read": kernel("copy(stage ^ 1,", "copy(stage,", "causal", RACE),
    "stages do not alternate": kernel("first);\n      stage ^= 1;\n", "first);\n", "causal", ("race", "numbers")),
    "copies never waited for": kernel(_LAST_WAIT, "", "no key is seen", ("copies",)),
    "tiles of the chunk before are still read": kernel(
        "    if constexpr (kWarps == 1) sync_warp();  // the tiles", "    // the tiles", "chunks of one block", RACE
    ),
    "facts of rows are still read": kernel(
        "    sync_warp();  // what was there has been read\n", "", "segments, one warp", RACE
    ),
    "facts of rows are not yet there": kernel(
        f"{_INFO_STORED}    sync_warp();\n", _INFO_STORED, "causal, one warp", ("race", "uninitialised")
    ),
    "addends are not yet there": kernel(
        f"{_ADDEND_STORED}    sync_warp();\n", _ADDEND_STORED, "causal, general", ("race", "uninitialised")
    ),
    "words of blocks are still read": kernel(
        "  sync_block();  // the words of the chunk before have been read\n", "", "unseen segments", RACE, VISIBLE
    ),
    "words of blocks are not yet there": kernel(
        f"{_WORDS_STORED}  sync_block();\n", _WORDS_STORED, "causal", ("race", "uninitialised", "divergence"), VISIBLE
    ),
}

PRODUCTS = {
    "words 1 and 2 of the weights": kernel(_OWN_WORDS, _SWAPPED_WORDS, "causal", NUMBERS, PRODUCT),
    "words 1 and 2 of the queries": kernel(
        "A::offset(first + lane % 16, lane / 16)",
        "A::offset(first + lane % 8 + lane / 16 * 8, lane / 8 % 2)",
        "causal",
        NUMBERS,
        PRODUCT,
    ),
    "rows of the keys' matrices": kernel(
        "B::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2)",
        "B::offset(lane % 16, lane / 16)",
        "causal",
        NUMBERS,
        PRODUCT,
    ),
    "values not transposed": kernel(
        "load_matrices_transposed(right", "load_matrices(right", "causal", NUMBERS, PRODUCT
    ),
    "first product twice": kernel("if (k == 0 && !kAdd) {", "if (k <= 1) {", "causal", NUMBERS, PRODUCT),
    "swizzled chunks added": kernel(
        "(offset ^ (steps % 4 * 32))",
        "(offset + (steps % 4 * 32))",
        "causal",
        ("numbers", "bounds", "uninitialised", "race"),
        TILE,
    ),
    "copies not swizzled": kernel(
        "copy16_async(tile.at(row_of(i), chunk_of(i))",
        "copy16_async(tile.base + (row_of(i) * Tile::kRowBytes + chunk_of(i) * 16)",
        "causal",
        NUMBERS,
        TILE,
    ),
    "tails of features not zeroed": kernel("(in_row ? count", "(true ? count", "tails", ("numbers", "bounds"), TILE),
    "one element more of a tail": kernel("i < count ?", "i <= count ?", "odd tails", ("numbers", "bounds"), TILE),
    "16 bytes from any address": kernel("data.aligned16() && ", "", "odd start", ("alignment",), TILE),
    "16 bytes at any stride": kernel("stride % kElements == 0 && ", "", "odd stride", ("alignment",), TILE),
    "queries beyond the last": kernel("first, place.len_q - first);", "first, kRows);", "159 keys", OUTSIDE),
    "values beyond the last": kernel(
        "source.values, first, source.length - first);", "source.values, first, kKeys);", "causal", OUTSIDE
    ),
    "stored beyond the last feature": kernel("if (column < dim) store", "store", "tails", ("bounds", "race")),
    "shared memory too small": kernel(
        "4 * (kRows * (kKeys + 8) - 8)", "4 * kRows * kKeys", "64 rows, general", OUTSIDE
    ),
}

MASKS = {
    "last block of keys forgotten": kernel("(stop + kKeys - 1) / kKeys)", "stop / kKeys)", "causal", NUMBERS, VISIBLE),
    "partial block taken for full": kernel(
        "kKeys, stop / kKeys)};", "kKeys, (stop + kKeys - 1) / kKeys)};", "causal", NUMBERS, VISIBLE
    ),
    "full one key too early": kernel(
        "kKeys, stop / kKeys)};", "kKeys, (stop + 1) / kKeys)};", "159 keys", NUMBERS, VISIBLE
    ),
    "full from one key too late": kernel(
        "block_bits((from + kKeys - 1)", "block_bits((from + kKeys - 2)", "from key 1", NUMBERS, VISIBLE
    ),
    "full if for one lane": kernel("warp_and(own.full)", "warp_or(own.full)", "empty rows"),
    "blocks of the first chunk in every one": kernel(
        "row.exists(), start);", "row.exists(), 0);", "chunks, causal", NUMBERS
    ),
    "one key too many": kernel("|| local >= sees.stop", "|| local > sees.stop", "causal"),
    "one key too many, general": kernel(
        "local >= row.sees.stop", "local > row.sees.stop", "causal, general", NUMBERS, PAIRS
    ),
    "rows of a dense mask": kernel(
        "visible_size[2]) * stride[2]", "visible_size[2]) * stride[3]", "dense mask", NUMBERS, PAIRS
    ),
    "dense mask does not clear full": kernel("(dense_mask || call", "(call", "dense mask"),
    "poison not looked for": kernel("!kFull && has_poison(value(stage))", "false", "poison", ISOLATION),
    "poison not added": kernel(
        "if (!kFull && isolate) add_poison(out, weights, value(stage));", "", "poison", ISOLATION
    ),
    "poison of masked pairs": kernel("poison[j % 2] && !masked ?", "poison[j % 2] ?", "poison", ISOLATION, PRODUCT),
    "masked weights not marked": kernel("x == -INFINITY ? -0.0f : weight", "weight", "poison", ISOLATION, SOFTMAX),
    "poison read without swizzle": kernel(
        "return at(row, column / kChunkElements) +",
        "return base + row * kRowBytes + column / kChunkElements * 16 +",
        "poison",
        ISOLATION,
        TILE,
    ),
}

SUMS = {
    "output not rescaled": kernel("    scale_rows(out, factor);\n", "", "growing"),
    "sum by products not rescaled": kernel("sum_tile[m][j] *= factor[2 * m + j / 2];", ";", "growing"),
    "row sum not rescaled": kernel("    state.row_sum[r] *= factor[r];\n", "", "growing, general", NUMBERS, SOFTMAX),
    "factor the wrong way round": kernel("(before - moved[r])", "(moved[r] - before)", "growing", NUMBERS, SOFTMAX),
    "shift of chunks not made safe": kernel("shift = safe_shift(top);", "shift = top;", "splits, empty rows"),
    "empty rows not told": kernel("state.shift[r] == -INFINITY && sum == 0.0f", "false", "empty rows"),
    "sum of one lane": kernel("quad_sum(state.row_sum[r])", "state.row_sum[r]", "causal, general"),
    "maximum of two lanes": kernel("return maximum(x, shuffle_xor(x, 2));", "return x;", "growing", NUMBERS, SOFTMAX),
    "last split not merged": kernel("split < call.splits; ++split", "split + 1 < call.splits; ++split", "splits"),
    "factor of the other chunk": kernel("exp2_approx((saved - shift)", "exp2_approx((own - shift)", "splits"),
    "maximum for sum of a chunk": kernel(
        "load_written(state_at(tile, kNumbers + 2 * r + 1))", "load_written(state_at(tile, kNumbers + 2 * r))", "chunks"
    ),
    "splits merged in another order": kernel(
        "for (int split = 0; split < call.splits; ++split)",
        "for (int split = call.splits - 1; split >= 0; --split)",
        "splits and none",
        BITS,
    ),
    "chunks not merged": kernel("        if (merged) merge_saved<true>(tile);\n", "", "chunks"),
    "lse without scale": kernel("fused(state.shift[r], scale, ", "fused(state.shift[r], 1.0f, ", "causal"),
    "lse in base 2": kernel("log2_approx(sum) * kLn2", "log2_approx(sum)", "causal"),
}

OFFSETS = {
    "head of the keys": kernel(
        "place.head / static_cast<int>(p.heads_q / p.heads_k)", "0", "grouped heads", NUMBERS, PAIRS
    ),
    "head of the keys, interleaved": kernel(
        "place.head / static_cast<int>(p.heads_q / p.heads_k)",
        "place.head % static_cast<int>(p.heads_k)",
        "grouped heads",
        NUMBERS,
        PAIRS,
    ),
    "rows of a pack": kernel(
        "? row / place.len_q : 0;",
        "? (row + 1) / place.len_q : 0;",
        "packed heads",
        ("numbers", "bounds", "race"),
        CALL,
    ),
    "one head more in a pack": kernel(
        "member < call.pack};", "member <= call.pack};", "packed heads", ("bounds", "race"), CALL
    ),
    "first key of a sequence": kernel(
        "rows_of<T>(segment.key, place.batch, head, place.key_first)",
        "rows_of<T>(segment.key, place.batch, head, 0)",
        "varlen",
        NUMBERS,
        PAIRS,
    ),
    "first row of a sequence": kernel("place.head, place.query_first);", "place.head, 0);", "varlen"),
    "ends of sequences believed": kernel(
        "clamp_index(load(global<int32_t>(cu) + (b + 1)), total)",
        "load(global<int32_t>(cu) + (b + 1))",
        "ends that lie",
        OUTSIDE,
        CALL,
    ),
    "offset of a segment": kernel("key = offset + local;", "key = local;", "bias", NUMBERS, PAIRS),
    "rows of a bias": kernel("at * b.stride[i][2]", "at * b.stride[i][3]", "bias", NUMBERS, SCORES),
    "zero of a table": kernel(
        "row.entry = b.zero - query;", "row.entry = b.zero + query;", "relative bias", NUMBERS, SCORES
    ),
    "softcap undivided": kernel(
        "hyperbolic_tangent(x / p.softcap)", "hyperbolic_tangent(x)", "softcap", NUMBERS, PAIRS
    ),
    "words of dropout swapped": kernel(
        "shuffle_xor(odd ? own.word[0] : own.word[2], 1)",
        "shuffle_xor(odd ? own.word[1] : own.word[3], 1)",
        "dropout",
        NUMBERS,
        SCORES,
    ),
    "rows of dropout swapped": kernel(
        "row = odd ? lower : upper;", "row = odd ? upper : lower;", "dropout", NUMBERS, SCORES
    ),
    "words of dropout at odd offsets": kernel(
        "% 4 / 2 ? high : low)", "% 4 / 2 ? low : high)", "dropout", NUMBERS, SCORES
    ),
    "threshold of dropout": kernel(
        "d.offset[0]), d.threshold}", "d.offset[0]), d.threshold / 2}", "dropout", NUMBERS, SCORES
    ),
    "kept weights not scaled": kernel("p.dropout.active ? p.dropout.keep_scale : 1.0f", "1.0f", "dropout"),
}


@cache
def expectation(name: str) -> Expectation:
    """Of a problem that has a right answer."""
    return Expectation(PROBLEMS[name].make(), rounded=True)


def results(module: ModuleType, inputs: Inputs, options: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """Of the emulator."""
    with emulated(module, seed=seed, **options) as device:
        found = inputs.run("cuda")
    assert device.told, "no kernel ran"
    return found


def isolated(problem: Problem, out: Tensor, clean: Tensor) -> bool:
    """Whether the output is not finite just where a row sees such a value, and elsewhere as in the clean call."""
    value = problem.make().values[0]
    sees = torch.ones(out.shape[2], value.shape[2]).tril()
    poisoned = sees @ (~value.isfinite()).float() > 0
    return bool((out.isfinite() == ~poisoned).all() and (out[~poisoned] == clean[~poisoned]).all())


def fault(module: ModuleType, emulator: ModuleType, name: str, seed: int) -> str:
    """See Family."""
    problem = PROBLEMS[name]
    found = results(module, problem.make(), problem.options, seed)
    if problem.clean is not None:
        clean = results(module, problem.clean(), problem.options, seed)
        return "" if isolated(problem, found["out"], clean["out"]) else "isolation"
    if problem.same_with is not None:
        other = results(module, problem.make(), problem.same_with, seed)
        return "" if torch.equal(found["out"], other["out"]) and torch.equal(found["lse"], other["lse"]) else "bits"
    return "numbers" if not problem.wrong and expectation(name).faults(found) else ""


FAMILY = Family(
    "attention_forward",
    "bind_attention",
    ("attention", "attention_arrays"),
    PROBLEMS,
    SYNCHRONISATION | PRODUCTS | MASKS | SUMS | OFFSETS,
    fault,
    lambda problem: (f"PLANTED_KERNEL={str(PROBLEMS[problem].options['kind']).capitalize()}",),
)
