"""The machine-code report's reading of one kernel: its control flow, its hot loop, the figures of that."""

from __future__ import annotations

import pytest

from tests.device.listings import MMA, listing, repeated
from tools.machine_code.count import count_loop
from tools.machine_code.flow import build_graph, natural_loops


def loops_of(body: str) -> dict[str, int]:
    """Address of each loop's header -> instructions in its blocks."""
    graph = build_graph(listing(body))
    return {
        hex(graph.blocks[header][0].address): sum(len(graph.blocks[block]) for block in blocks)
        for header, blocks in natural_loops(graph).items()
    }


# ---- which loop ----


def test_no_loop():
    body = f"""
        LDG.E R2, [R4.64]
        @P0 BRA `(.L_x_1)
        {MMA}
        .L_x_1:
        EXIT"""
    assert loops_of(body) == {}
    assert count_loop(listing(body)) is None


def test_a_block_out_of_line_belongs_to_its_loop():
    body = f"""
        MOV R1, c[0x0][0x28]
        BRA `(.L_x_2)
        .L_x_1:
        LDGSTS.E.BYPASS.128 [R2], [R4.64]
        BRA `(.L_x_3)
        .L_x_2:
        {MMA}
        @P0 BRA `(.L_x_1)
        .L_x_3:
        MUFU.EX2 R3, R3
        @P1 BRA `(.L_x_2)
        EXIT"""
    assert loops_of(body) == {"0x40": 6}
    loop = count_loop(listing(body))
    assert loop.address == "0x40" and loop.whole.slots == 6
    assert loop.mix == {"control": 3, "async_copy": 1, "matrix": 1, "exp2": 1}


def test_the_inner_loop_is_hot_and_the_outer_one_leaves_it_out():
    body = f"""
        .L_x_1:
        {MMA}
        .L_x_2:
        {MMA}
        {MMA}
        @P0 BRA `(.L_x_2)
        FADD R1, R1, R2
        @P1 BRA `(.L_x_1)
        EXIT"""
    assert loops_of(body) == {"0x0": 6, "0x10": 3}
    loop = count_loop(listing(body))
    assert (loop.address, loop.whole.slots, loop.whole.work) == ("0x10", 3, 2)
    heavier = count_loop(listing(body.replace("FADD R1, R1, R2", f"{MMA}\n{MMA}")))
    assert (heavier.address, heavier.whole.slots, heavier.whole.work) == ("0x0", 4, 3)


def test_of_two_loops_the_one_with_more_products_is_hot():
    few, many = (f".L_x_{n}:\n{repeated(count, MMA)}\n@P0 BRA `(.L_x_{n})" for n, count in ((1, 2), (2, 3)))
    assert loops_of(f"{few}\n{many}\nEXIT") == {"0x0": 3, "0x30": 4}
    assert count_loop(listing(f"{few}\n{many}\nEXIT")).address == "0x30"
    assert count_loop(listing(f"{many}\n{few}\nEXIT")).address == "0x0"


def test_of_two_loops_with_equal_products_the_shorter_is_hot():
    body = f"""
        .L_x_1:
        {MMA}
        FSEL R1, R1, R2, P0
        @P0 BRA `(.L_x_1)
        .L_x_2:
        {MMA}
        @P0 BRA `(.L_x_2)
        EXIT"""
    assert count_loop(listing(body)).address == "0x30"


def test_a_spin_inside_is_counted_once_and_named():
    body = f"""
        .L_x_1:
        FADD R1, R1, R2
        .L_x_3:
        SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R11
        @!P0 BRA `(.L_x_3)
        {MMA}
        @P1 BRA `(.L_x_1)
        EXIT"""
    loop = count_loop(listing(body))
    assert loop.whole.slots == 5 and loop.steady.slots == 5 and loop.waiting == 2


def test_branches_that_do_not_leave():
    """A diverged warp's way is not taken; BSYNC goes where its BSSY said; a predicate operand is a condition."""
    loop = count_loop(
        listing(f"""
        .L_x_1:
        {MMA}
        BRA.DIV ~URZ, `(.L_x_9)
        BSSY B0, `(.L_x_4)
        @P0 BRA `(.L_x_2)
        @!PT LDS RZ, [RZ]
        .L_x_2:
        BSYNC B0
        .L_x_4:
        BRA.U !UP0, `(.L_x_5)
        BRA `(.L_x_1)
        .L_x_5:
        EXIT
        .L_x_9:
        WARPSYNC.COLLECTIVE R3, `(.L_x_1)
        BRA `(.L_x_1)""")
    )
    assert loop.whole.slots == 8 and loop.mix["nothing"] == 1


def test_a_block_out_of_line_that_ends_in_bsync_belongs_to_its_loop():
    body = f"""
        .L_x_1:
        BSSY B0, `(.L_x_4)
        @P0 BRA `(.L_x_8)
        BSYNC B0
        .L_x_4:
        {MMA}
        @P1 BRA `(.L_x_1)
        EXIT
        .L_x_8:
        FSEL R1, R1, R2, P3
        BSYNC B0
        EXIT"""
    assert loops_of(body) == {"0x0": 7}


def test_a_loop_in_a_function_that_is_called():
    body = f"""
        CALL.REL.NOINC `($k$sub)
        EXIT
        $k$sub:
        FADD R1, R1, R2
        .L_x_1:
        {MMA}
        @P0 BRA `(.L_x_1)
        RET.REL.NODEC R2 `(k)"""
    assert loops_of(body) == {"0x30": 2}


def test_a_call_of_a_block_is_a_jump():
    """Taken for a call, it would make each of its targets an entry of its own, and no loop around it a natural one."""
    body = f"""
        .L_x_1:
        {MMA}
        .L_x_2:
        FADD R1, R1, R2
        @!P0 CALL.REL.NOINC `(.L_x_3)
        BRA `(.L_x_2)
        .L_x_3:
        @P1 CALL.REL.NOINC `(.L_x_4)
        BRA `(.L_x_1)
        .L_x_4:
        EXIT"""
    assert loops_of(body) == {"0x0": 6, "0x10": 3}


def test_two_entries_are_no_loop_of_either_header():
    """Blocks that jump to each other and can both be entered have no header that dominates the other."""
    body = f"""
        @P0 BRA `(.L_x_2)
        .L_x_1:
        {MMA}
        .L_x_2:
        FADD R1, R1, R2
        @P1 BRA `(.L_x_1)
        EXIT"""
    assert loops_of(body) == {}


def test_without_matrix_instructions_the_multiply_adds_are_the_work():
    ffma = "FFMA R0, R1, R2, R0"
    body = f".L_x_1:\nLDS.128 R4, [R2]\n{repeated(31, ffma)}\n@P0 BRA `(.L_x_1)\nEXIT"
    loop = count_loop(listing(body))
    assert loop.work == "multiply_add"
    assert (loop.whole.slots, loop.whole.work) == (33, 31)
    assert loop.whole.slots_per_kflop == pytest.approx(33 / (31 * 64 / 1000), abs=1e-4)
    assert count_loop(listing(body.replace(repeated(31, ffma), ffma))) is None


# ---- the steady iteration ----

PARTIAL = f"""
    .L_x_1:
    {MMA}
    @P0 BRA `(.L_x_8)
    .L_x_2:
    @P1 BRA `(.L_x_3)
    LDGSTS.E.BYPASS.128 [R2], [R4.64]
    LDGSTS.E.BYPASS.128 [R2+0x800], [R4.64+0x800]
    .L_x_3:
    {MMA}
    @P2 BRA `(.L_x_1)
    EXIT
    .L_x_8:
    ISETP.GE.AND P3, PT, R1, R2, PT
    FSEL R1, R1, R2, P3
    BRA `(.L_x_2)"""


def test_the_steady_iteration_fetches_and_does_not_mask():
    loop = count_loop(listing(PARTIAL))
    assert (loop.whole.slots, loop.steady.slots, loop.steady.work) == (10, 7, 2)
    assert loop.bytes_moved == {"global_to_shared": 2 * 512}


@pytest.mark.parametrize("guard", ["@P0", "@!P0"])
def test_a_mask_in_line_is_not_in_the_steady_iteration_either(guard):
    """Whichever way around the compiler lays it out."""
    longer, shorter = repeated(3, "FSEL R1, R1, R2, P3"), "FADD R1, R1, R2"
    first, second = (longer, shorter) if guard == "@P0" else (shorter, longer)
    body = f"""
        .L_x_1:
        {MMA}
        {guard} BRA `(.L_x_2)
        {first}
        BRA `(.L_x_3)
        .L_x_2:
        {second}
        .L_x_3:
        @P1 BRA `(.L_x_1)
        EXIT"""
    loop = count_loop(listing(body))
    assert loop.whole.slots == 8
    assert loop.steady.slots == (4 if guard == "@P0" else 5)


def test_a_masked_twin_inside_the_loop_is_not_in_the_steady_iteration():
    """One loop whose full and partial tiles have products of their own: an iteration passes one of them."""
    loop = count_loop(
        listing(f"""
        .L_x_1:
        @P0 BRA `(.L_x_8)
        {MMA}
        {MMA}
        BRA `(.L_x_2)
        .L_x_8:
        {MMA}
        {MMA}
        FSEL R1, R1, R2, P3
        .L_x_2:
        @P2 BRA `(.L_x_1)
        EXIT""")
    )
    assert (loop.whole.work, loop.steady.work, loop.steady.slots) == (4, 2, 5)


def test_a_skipped_tile_is_not_the_steady_iteration():
    loop = count_loop(
        listing(f"""
        .L_x_1:
        @P0 BRA `(.L_x_2)
        {MMA}
        .L_x_2:
        @P2 BRA `(.L_x_1)
        EXIT""")
    )
    assert (loop.steady.slots, loop.steady.work) == (3, 1)


# ---- figures of a loop ----


def test_slots_per_kflop_of_a_known_loop():
    """256 HMMA in 1185 slots, the hot loop of flash-attention 2 at head dimension 64: 1.13 and 21.6 %."""
    others = repeated(1185 - 256 - 1, "FADD R1, R1, R2")
    pace = count_loop(listing(f".L_x_1:\n{repeated(256, MMA)}\n{others}\n@P0 BRA `(.L_x_1)\nEXIT")).whole
    assert (pace.slots, pace.work) == (1185, 256)
    assert pace.slots_per_kflop == pytest.approx(1185 / (256 * 4.096), abs=1e-4)
    assert round(pace.slots_per_kflop, 2) == 1.13 and round(pace.share, 3) == 0.216


def test_bytes_moved_against_the_least():
    loop = count_loop(
        listing(f"""
        .L_x_1:
        LDGSTS.E.BYPASS.LTC128B.128 [R2], [R4.64]
        LDSM.16.MT88.4 R8, [R3]
        @!PT LDS RZ, [RZ]
        {MMA}
        @P0 STS.64 [R2], R4
        LDL R7, [R1]
        @P0 BRA `(.L_x_1)
        EXIT"""),
        least=62.5,
    )
    assert loop.bytes_moved == {"global_to_shared": 512, "shared_load": 512, "shared_store": 256, "local": 128}
    assert loop.global_bytes_per_kflop == 125.0 and loop.global_bytes_over_least == 2.0
    assert loop.shared_bytes_per_kflop == 187.5
    assert loop.local_accesses == 1 and loop.conditional == 1
