"""Bugs of the primitives' PTX: for each the change of csrc/cuda/ptx and what of test_primitives_ptx.py must fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.device.planted.planting import Bug

_WORDS = '"=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])'


@dataclass(frozen=True)
class Planted:
    """A bug of a primitive."""

    bug: Bug
    test: str
    arguments: tuple[Any, ...] = ()


def primitive(file: str, old: str, new: str, test: str, *arguments: Any, times: int = 1) -> Planted:
    """One in ptx/<file>.h."""
    return Planted(Bug(f"ptx/{file}.h", old, new, times), f"test_{test}", arguments)


PRIMITIVE_BUGS = {
    "matrices not transposed": primitive("matrix", ".x4.trans.", ".x4.", "matrices"),
    "matrices 1 and 2 swapped": primitive(
        "matrix", _WORDS, _WORDS.replace("[1]", "[4]").replace("[2]", "[1]").replace("[4]", "[2]"), "matrices", times=2
    ),
    "f16 for bf16": primitive("matrix", 'BFloat16, "bf16"', 'BFloat16, "f16"', "products", "BFloat16"),
    "left words of a product swapped": primitive(
        "matrix", "{%4, %5, %6, %7}", "{%4, %6, %5, %7}", "products", "Half", times=2
    ),
    "right words of a product swapped": primitive("matrix", "{%8, %9}", "{%9, %8}", "products", "Half", times=2),
    "sums of a product swapped": primitive(
        "matrix", "{%8, %9}, {%0, %1, %2, %3}", "{%8, %9}, {%2, %3, %0, %1}", "products", "Half"
    ),
    "no zeros copied": primitive("memory", "[%1], 16, %2;", "[%1], 16;", "asynchronous_copies"),
    "wait for one group fewer": primitive("memory", '"n"(pending)', '"n"(pending + 1)', "asynchronous_copies"),
    "groups not ended": primitive("memory", "cp.async.commit_group;", "", "asynchronous_copies"),
    "words 1 and 2 of a load": primitive(
        "memory", "ld.shared.v4.b32 {%0, %1, %2, %3}", "ld.shared.v4.b32 {%0, %2, %1, %3}", "shared_memory", 128
    ),
    "words of a load of two": primitive(
        "memory", "ld.shared.v2.b32 {%0, %1}", "ld.shared.v2.b32 {%1, %0}", "shared_memory", 64
    ),
    "half a store": primitive(
        "memory", "st.shared.v4.b32 [%0], {%1, %2, %3, %4}", "st.shared.v2.b32 [%0], {%1, %2}", "shared_memory", 128
    ),
    "words of a global store": primitive(
        "memory",
        "st.global.v4.b32 [%0], {%1, %2, %3, %4}",
        "st.global.v4.b32 [%0], {%1, %3, %2, %4}",
        "global_memory",
        128,
    ),
    "no barrier": primitive("sync", "bar.sync 0;", "", "shared_memory", 32),
    "no barrier of a warp": primitive(
        "sync", "bar.warp.sync 0xffffffff;", "", "barrier_of_a_warp_stands_between_store_and_load", "sync_within_a_warp"
    ),
    "half a warp's barrier": primitive(
        "sync",
        "bar.warp.sync 0xffffffff;",
        "bar.warp.sync 0xffff;",
        "barrier_of_a_warp_stands_between_store_and_load",
        "matrices",
    ),
    "lane for difference of lanes": primitive(
        "sync", "shfl.sync.bfly", "shfl.sync.idx", "sync_of_a_warp_shuffles_and_reductions", times=2
    ),
    "difference of lanes for lane": primitive(
        "sync", "shfl.sync.idx", "shfl.sync.bfly", "sync_of_a_warp_shuffles_and_reductions"
    ),
    "or for and": primitive("sync", "redux.sync.and", "redux.sync.or", "sync_of_a_warp_shuffles_and_reductions"),
    "halves of a pair swapped": primitive(
        "convert", '"f"(high), "f"(low)', '"f"(low), "f"(high)', "conversions", times=2
    ),
    "rounded towards zero": primitive("convert", "cvt.rn.bf16x2", "cvt.rz.bf16x2", "conversions"),
    "power of what is not set": primitive(
        "math", "ex2.approx.ftz.f32 %0, %1;", "ex2.approx.ftz.f32 %0, %0;", "exp2_and_log2"
    ),
    "power for logarithm": primitive("math", "lg2.approx.f32", "ex2.approx.f32", "exp2_and_log2"),
    "factor and addend swapped": primitive("math", "fma.rn.f32 %0, %1, %2, %3;", "fma.rn.f32 %0, %1, %3, %2;", "math"),
    "minimum for maximum": primitive("math", "max.f32", "min.f32", "math"),
    "highest for lowest bit": primitive("math", "clz.b32 %0, mirrored", "clz.b32 %0, %1", "lowest_bit"),
}
