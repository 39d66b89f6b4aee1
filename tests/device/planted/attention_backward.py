"""Bugs of the attention backward's kernels of fp16 and head dim 64; the forward before them is right."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from torch import Tensor

from tests import plain
from tests.device.attention import emulated
from tests.device.planted.attention_backward_problems import PROBLEMS, poison
from tests.device.planted.planting import ISOLATION, NUMBERS, RACE, Bug, Family, Planted
from tests.tolerance import Expectation

QUERY, KEYS, BIAS = (f"kernels/attention_backward_{name}.h" for name in ("query", "keys", "bias"))
ROWS, DELTA, GRADIENTS = "kernels/attention_backward_rows.h", "kernels/attention_delta.h", "tile/gradients.h"


def bug(file: str, old: str, new: str, problem: str, seen_by: tuple[str, ...] = NUMBERS) -> Planted:
    """One that stands at one place."""
    return Planted(Bug(file, old, new), problem, seen_by)


_LOOKS = "void look_at(int s, const Source& source) const {\n"
_WAIT = "      wait_copies<0>();\n      sync_block();\n"
_LOOKED = "interval_of(call, place, s, row, source.length)});\n    }\n"
_STAGED = "source.offset, first + column));\n    }\n"
_HIDDEN = "if (kMasked && hidden) s = dp = -0.0f;"
_ADDENDS = "row, bias, offset, local));\n    }\n"

QUERY_PASS = {
    "query: no wait for copies": bug(QUERY, _WAIT, "      sync_block();\n", "causal", RACE),
    "query: waits for all groups but one": bug(QUERY, _WAIT, _WAIT.replace("<0>", "<1>"), "causal", RACE),
    "query: no barrier in the ring": bug(QUERY, _WAIT, "      wait_copies<0>();\n", "causal", RACE),
    "query: copies into the stage that is read": bug(
        QUERY, "copy(stage ^ 1, lowest_bit(left))", "copy(stage, lowest_bit(left))", "causal", RACE
    ),
    "query: facts of rows are still read": bug(
        QUERY, f"{_LOOKS}    sync_warp();  // what was there has been read\n", _LOOKS, "segments", RACE
    ),
    "query: facts of rows are not yet there": bug(
        QUERY, f"{_LOOKED}    sync_warp();\n", _LOOKED, "causal", ("race", "uninitialised")
    ),
    "query: addends are not yet there": bug(
        QUERY, f"{_STAGED}    sync_warp();\n", _STAGED, "bias", ("race", "uninitialised")
    ),
    "query: keys for values": bug(QUERY, "warp_index() * 16, value(stage)", "warp_index() * 16, key(stage)", "few"),
    "query: values for keys": bug(QUERY, "(gradient, dp, key(stage))", "(gradient, dp, value(stage))", "few"),
    "query: without scale": bug(
        QUERY, "static_cast<int>(p.dim_qk), p.scale)", "static_cast<int>(p.dim_qk), 1.0f)", "few"
    ),
    "query: chunks before forgotten": bug(
        QUERY,
        "add_to_saved<kThreads>(gradient, rest, some)",
        "add_to_saved<kThreads>(gradient, rest, false)",
        "chunks of keys",
    ),
    "query: chunks not begun at 0": bug(
        QUERY, "    gradient.clear();\n    if constexpr", "    if constexpr", "chunks of keys"
    ),
    "query: beyond the last row": bug(
        QUERY, "      if (!row.inside) continue;\n", "", "few", ("bounds", "race", "numbers")
    ),
    "query: first row of a sequence": bug(
        QUERY, "(place.query_first + row.query) * view.row", "row.query * view.row", "varlen", ("numbers", "race")
    ),
    "query: a partial block taken for full": bug(QUERY, "own.full &= blocks.full", "own.full |= blocks.some", "causal"),
}

KEYS_PASS = {
    "keys: no wait for copies": bug(KEYS, _WAIT, "      sync_block();\n", "causal", RACE),
    "keys: no barrier in the ring": bug(KEYS, _WAIT, "      wait_copies<0>();\n", "causal", RACE),
    "keys: copies into the stage that is read": bug(
        KEYS, "copy(stage ^ 1, lowest_bit(left))", "copy(stage, lowest_bit(left))", "causal", RACE
    ),
    "keys: facts of rows are still read": bug(
        KEYS, "    sync_block();  // those of the chunk before have been read\n", "", "chunks of rows", RACE
    ),
    "keys: addends are not yet there": bug(
        KEYS, f"{_ADDENDS}    sync_warp();\n", _ADDENDS, "bias", ("race", "uninitialised")
    ),
    "keys: the entry before is still read": bug(
        KEYS,
        "      sync_block();  // this entry's tiles have been read\n",
        "",
        "one key and value",
        ("race", "divergence"),
    ),
    "keys: one entry of a broadcast key": bug(
        KEYS, "batches == 1 ? static_cast<int>(p.batch) - 1 : at.batch", "at.batch", "one key and value"
    ),
    "keys: one head of a group": bug(KEYS, "head < heads().stop;", "head < heads().first + 1;", "grouped heads"),
    "keys: statistics of the first tile": bug(
        KEYS, "statistics_at(tile * kQueries + column)", "statistics_at(column)", "causal, bias"
    ),
    "keys: a tile that sees one key forgotten": bug(
        KEYS,
        "if (larger(sees.start, first) < smaller(sees.stop, last)) own",
        "if (larger(sees.start, first) + 1 < smaller(sees.stop, last)) own",
        "one key",
    ),
    "keys: a partial tile taken for full": bug(
        KEYS, "if (sees.start > first || sees.stop < last)", "if (sees.start > first)", "causal"
    ),
    "keys: one key too many": bug(KEYS, "key >= sees.stop);", "key > sees.stop);", "causal"),
    "keys: chunks before forgotten": bug(
        KEYS, "(grad_value, rest() + kBehind, some)", "(grad_value, rest() + kBehind, false)", "chunks of rows"
    ),
    "keys: sums of keys and values in one place": bug(
        KEYS, "kBehind = kKey ? kThreads * kDim / 2 : 0;", "kBehind = 0;", "chunks of rows"
    ),
    "keys: first key of a sequence": bug(
        KEYS, "(rows.first + row) * view.row", "row * view.row", "varlen", ("numbers", "race")
    ),
    "keys: dropout without a segment's offset": bug(
        KEYS,
        "keys().offset + place().tile * kRows + warp_index() * 16 + d",
        "place().tile * kRows + warp_index() * 16 + d",
        "dropout",
    ),
    "keys: dropout of the first tile": bug(
        KEYS, "start + tile * kQueries + d.offset[2]", "start + d.offset[2]", "dropout, aligned"
    ),
    "keys: kept weights not scaled": bug(
        KEYS, "kGeneral && p.dropout.active ? p.dropout.keep_scale : 1.0f", "1.0f", "dropout"
    ),
    "keys: tails of features": bug(
        GRADIENTS, "if (8 * n + pair + e < dim) store", "store", "tails", ("bounds", "race", "numbers")
    ),
}

PAIRS = {
    "derivative of softcap": bug(GRADIENTS, "  if constexpr (kSlope) gradient *= x.slope;\n", "", "softcap"),
    "query: delta not subtracted by the plain kernel": bug(
        QUERY, "delta[r] = -statistics.delta;", "delta[r] = 0.0f;", "few"
    ),
    "keys: delta not subtracted by the plain kernel": bug(
        KEYS, "store(own, -statistics.delta);", "store(own, 0.0f);", "few"
    ),
    "keys: shift of every other query": bug(KEYS, "shift.x[e],", "shift.x[0],", "few"),
    "delta not subtracted": bug(GRADIENTS, "(dropped - row.delta)", "dropped", "softcap"),
    "gradients of kept pairs not scaled": bug(
        GRADIENTS, "kept ? dp * p.dropout.keep_scale : 0.0f", "kept ? dp : 0.0f", "dropout"
    ),
    "gradients of dropped pairs": bug(
        GRADIENTS, "kept ? dp * p.dropout.keep_scale : 0.0f", "dp * p.dropout.keep_scale", "dropout"
    ),
    "weights of dropped pairs": bug(GRADIENTS, "s = kept ? weight : 0.0f;", "s = weight;", "dropout"),
    "weights of hidden pairs": Planted(Bug(GRADIENTS, f"  {_HIDDEN}\n", "", 2), "causal", NUMBERS),
    "hidden pairs not marked": Planted(Bug(GRADIENTS, _HIDDEN, _HIDDEN.replace("-0", "0"), 2), "poison", ISOLATION),
    "poison not looked for": bug(GRADIENTS, "kMasked && has_poison(b)", "false", "poison", ISOLATION),
    "factor of a row": bug(GRADIENTS, "* kLog2E) * row.factor;", "* kLog2E);", "finfo.min"),
    "dropout of rows: words of a lane": bug(GRADIENTS, "kept >>= member;", "kept >>= member ^ 1;", "dropout, aligned"),
    "dropout of rows: two lanes' blocks": bug(
        GRADIENTS, "      kept |= shuffle_xor(kept, 8);\n", "", "dropout, aligned"
    ),
    "dropout of rows at odd offsets": bug(GRADIENTS, "at % 4 / 2 ? high : low", "at % 4 / 2 ? low : high", "dropout"),
    "dropout of another query": bug(
        GRADIENTS, "d.block(head, first + j % 2, at)", "d.block(head, first, at)", "dropout"
    ),
}

STATISTICS = {
    "gradient of lse": bug(
        DELTA, "  if (p.grad_lse != nullptr) delta -= number_of(p.grad_lse, p.grad_lse_stride);\n", "  ", "few"
    ),
    "delta of one lane": bug(DELTA, "mask > 0; mask /= 2) delta", "mask > 1; mask /= 2) delta", "few"),
    "delta of tails": bug(DELTA, "i < p.dim_v; i += 32", "i < p.dim_v; i += 64", "few"),
    "far rows not seen": bug(ROWS, "kFar = 64.0f", "kFar = INFINITY", "finfo.min"),
    "far rows: sum not rescaled": bug(
        ROWS, "      sum[r] *= exp2_approx((top[r] - shift) * kLog2E);\n", "", "far from 0"
    ),
    "shift of a row of -inf": bug(DELTA, "lse == -INFINITY ? INFINITY : ", "", "row of -inf", ISOLATION),
    "far rows: sum of one lane": bug(ROWS, "quad_sum(sum[r])", "sum[r]", "far from 0"),
}

BIAS_PASS = {
    "bias: gradients are not yet there": bug(
        BIAS,
        "    sync_block();\n    add_tile(source.offset + first);",
        "    add_tile(source.offset + first);",
        "bias",
        ("race", "uninitialised"),
    ),
    "bias: facts of the tile before are still read": bug(
        BIAS,
        "    sync_block();  // the tiles before have landed and been read\n",
        "",
        "relative bias, unread tiles",
        RACE,
    ),
    "bias: sums are put where the last tile is read": bug(
        BIAS, "    sync_block();  // the last tile has been read\n", "", "bias of keys, unseen", RACE
    ),
    "bias: one head of all": bug(BIAS, "size[1] == 1 ? static_cast<int>(p.heads_q) : 1", "1", "bias of all"),
    "bias: one batch entry of all": bug(BIAS, "size[0] == 1 ? static_cast<int>(p.batch) : 1", "1", "bias of all"),
    "bias: rows of one group of threads": bug(
        BIAS, "for (int g = 1; g < kGroups; ++g) total", "for (int g = 2; g < kGroups; ++g) total", "bias of keys"
    ),
    "bias: offset of a segment": bug(BIAS, "add_tile(source.offset + first);", "add_tile(first);", "bias"),
    "bias: place in a table": bug(
        BIAS,
        "entry + query - static_cast<int>(b.zero)",
        "entry + query - static_cast<int>(b.zero) + 1",
        "relative bias",
    ),
    "bias: window of a table": bug(BIAS, "last - row + zero);", "last - (row + kRows - 1) + zero);", "relative bias"),
    "bias: last row of a grid": bug(
        BIAS,
        "meets(first / width(), last / width())",
        "meets(first / width(), last / width() - 1)",
        "bias of a tall grid",
    ),
    "bias: columns of a grid": bug(
        BIAS, "EntryKeys{entry, width(), INT32_MAX}", "EntryKeys{entry, width() + 1, INT32_MAX}", "bias of a grid"
    ),
    "bias: gradient of the capped logit": bug(BIAS, "finish<false, false>", "finish<false, true>", "softcap and bias"),
    "bias: beyond the last entry": bug(
        BIAS, "row >= size[2] || entry >= size[3]", "row >= size[2]", "bias", ("bounds", "race", "numbers")
    ),
}


@cache
def expectation(name: str) -> Expectation:
    """Of a problem."""
    return Expectation(PROBLEMS[name].make(), rounded=True)


def fault(module: ModuleType, emulator: ModuleType, name: str, seed: int) -> str:
    """See Family."""
    expected = expectation(name)
    with emulated(emulator, seed=seed, backward_by=module) as device:
        found = plain.run(expected.inputs, "cuda", expected.cotangents)
        if PROBLEMS[name].poisoned:
            inputs, cotangents = poison(expected.inputs, dict(expected.cotangents))
            dirty = plain.run(inputs, "cuda", cotangents)
    assert device.told, "no kernel ran"
    if PROBLEMS[name].weightless:
        wanted = plain.run(expected.inputs, "reference", expected.cotangents)
        return "" if all((found[each].isnan() == wanted[each].isnan()).all() for each in found) else "isolation"
    if PROBLEMS[name].poisoned and not isolated(found, dirty):
        return "isolation"
    return "numbers" if expected.faults(found) else ""


def isolated(clean: dict[str, Tensor], dirty: dict[str, Tensor]) -> bool:
    """Whether what does not see the poison has the clean call's bits, and some of what does is not finite."""
    rows, keys = slice(6, 70), slice(46, 70)
    kept = all(
        bool((dirty[name][:, :, places] == clean[name][:, :, places]).all())
        for name, places in (("grad query 0", rows), ("grad key 0", keys), ("grad value 0", keys))
    )
    reached = dirty["grad query 0"][:, :, 80:].isnan().any() and dirty["grad key 0"][:, :, 5:45].isnan().any()
    return kept and bool(reached)


FAMILY = Family(
    "attention_backward",
    "bind_attention_backward",
    ("attention_backward", "attention_arrays"),
    PROBLEMS,
    QUERY_PASS | KEYS_PASS | PAIRS | STATISTICS | BIAS_PASS,
    fault,
    lambda problem: (f"PLANTED_GENERAL={int(PROBLEMS[problem].general)}",),
)
