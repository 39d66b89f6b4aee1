"""The interpreter's machine: memory, divergence, warps, barriers, asynchronous copies; and that faults are caught."""

from __future__ import annotations

import numpy as np
import pytest

from tests.device.handwritten import kernel, run
from tests.device.ptx import Memory, Module, PtxError

STORE = "mad.wide.u32 %l29, %r30, 4, %l30; st.global.b32 [%l29], %r0;"
SHARED = "shl.b32 %r1, %r30, 2; add.u32 %r1, %r1, 1024;"  # this thread's word


def words(body: str, threads: int = 32, **options) -> list[int]:
    """What each thread leaves in %r0."""
    out = np.zeros(threads, np.uint32)
    run(body + STORE, out, threads, **options)
    return out.tolist()


# ---- memory ----


def test_vectors_narrow_types_and_sign_extension():
    out = np.arange(64, dtype=np.uint32) * 0x01F1_8365
    wanted = out.copy().reshape(-1, 4)[:, ::-1].copy()
    body = "mad.wide.u32 %l1, %r30, 16, %l30; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%l1];"
    run(body + "st.global.v4.b32 [%l1], {%r4, %r3, %r2, %r1};", out, 16)
    assert out.tolist() == wanted.ravel().tolist()
    source = np.array([0x80, 0xFFFF8081], np.uint32)
    out = source.copy()
    run("ld.global.s8 %r1, [%l30]; ld.global.u8 %r2, [%l30+4]; st.global.v2.b32 [%l30], {%r1, %r2};", out, 1)
    assert out.tolist() == [0xFFFFFF80, 0x81]


def test_accesses_beyond_an_array_misaligned_or_read_only_are_refused():
    out = np.zeros(32, np.uint32)
    store = "mad.wide.u32 %l1, %r30, 4, %l30; {} st.global.b32 [%l1], %r30;"
    run(store.format(""), out)
    faults = {
        "add.s64 %l1, %l1, 4;": "out of bounds.*thread 31",
        "add.s64 %l1, %l1, -4;": "out of bounds.*thread 0 ",
        "add.s64 %l1, %l1, 2;": "misaligned",
        "shr.u64 %l1, %l1, 20;": "in no global array",
    }
    for extra, reason in faults.items():
        with pytest.raises(PtxError, match=reason):
            run(store.format(extra), out)
    out.flags.writeable = False
    with pytest.raises(PtxError, match="read-only"):
        run(store.format(""), out)


def test_memory_at_an_address_of_the_callers_choosing():
    """Across the end of a window, from 4 bytes behind a multiple of 16: in place, its own bytes and no others."""
    module = Module(kernel("mad.wide.u32 %l29, %r30, 4, %l30; st.global.b32 [%l29], %r30;"))
    room, begin = np.zeros(36, np.uint32), (0x5A01 << 48 | 0x1F << 36) - 60
    module.memory.place(begin, room.view(np.uint8)[: 4 * 33], "room", lead=4)
    module.launch("test", (1, 1, 1), (32, 1, 1), args=[np.uint64(begin)])
    assert room.tolist() == [0, *range(32), 0, 0, 0]
    faults = {-4: r"byte -4 of room \(128 bytes\).*thread 0 ", 4: "byte 128 of room.*thread 31", 2: "misaligned"}
    for offset, reason in faults.items():
        with pytest.raises(PtxError, match=reason):
            module.launch("test", (1, 1, 1), (32, 1, 1), args=[np.uint64(begin + offset)])
    module.memory.clear_placed()
    with pytest.raises(PtxError, match="in no global array"):
        module.launch("test", (1, 1, 1), (32, 1, 1), args=[np.uint64(begin)])


def test_shared_memory_is_bounded_and_starts_as_nan():
    assert np.isnan(
        np.array(words(SHARED + "ld.shared.b32 %r0, [%r1];", shared_bytes=128), np.uint32).view(np.float32)
    ).all()
    for offset in (4, -4):
        with pytest.raises(PtxError, match=r"out of bounds.*shared memory"):
            words(SHARED + f"ld.shared.b32 %r0, [%r1+{offset}];", shared_bytes=128)


def test_generic_addresses_reach_every_space():
    variables = ".shared .align 4 .b8 table[128];\n.global .align 4 .u32 numbers[2] = {7, 0x9};\n"
    body = """
    .local .align 8 .b8 mine[16];
    mov.u64 %l1, table; cvta.shared.u64 %l1, %l1; mad.wide.u32 %l2, %r30, 4, %l1; st.u32 [%l2], %r30;
    mov.u64 %l3, mine; cvta.local.u64 %l4, %l3; add.u32 %r2, %r30, 100; st.u32 [%l4+8], %r2; ld.local.u32 %r3, [mine+8];
    mov.u64 %l5, numbers; cvta.global.u64 %l5, %l5;
    and.b32 %r4, %r30, 1; setp.eq.u32 %p1, %r4, 0; selp.b64 %l6, %l2, %l5, %p1;
    ld.u32 %r5, [%l6]; add.u32 %r0, %r3, %r5;
    """
    assert words(body, variables=variables) == [100 + t + (t if t % 2 == 0 else 7) for t in range(32)]
    with pytest.raises(PtxError, match="out of bounds"):  # the low half of a generic pointer is no shared address
        words(body + "cvt.u32.u64 %r6, %l2; ld.shared.u32 %r0, [%r6];", variables=variables)


def test_struct_parameters_and_arguments():
    body = (
        "ld.param.u32 %r1, [s+4]; ld.param.u64 %l1, [s+8]; ld.param.f32 %r2, [f]; st.global.v2.b32 [%l1], {%r1, %r2};"
    )
    text = kernel(body, ".param .u64 out, .param .align 8 .b8 s[24], .param .f32 f")
    memory, out = Memory(), np.zeros(2, np.uint32)
    record = np.array([(1, 2, memory.register(out), 3)], "u4,u4,u8,u8").tobytes()
    module = Module(text, memory)
    module.launch("test", (1, 1, 1), (1, 1, 1), args=[np.uint64(0), record, np.float32(1.5)])
    assert out[0] == 2 and out[1:].view(np.float32)[0] == 1.5
    with pytest.raises(PtxError, match="argument 1 has 23 bytes"):
        module.launch("test", (1, 1, 1), (1, 1, 1), args=[np.uint64(0), record[:-1], np.float32(1.5)])


def test_registers_must_be_written_before_they_are_read():
    with pytest.raises(PtxError, match=r"%r7 is read and was never written.*line"):
        words("add.u32 %r0, %r7, 1;")


# ---- control ----


def test_divergent_loops_calls_and_tables():
    functions = """
    .func (.param .b32 result) triangle(.param .b32 n) { .reg .b32 %r<4>; .reg .pred %p<2>;
      ld.param.b32 %r1, [n]; mov.u32 %r2, 0; setp.gt.u32 %p1, %r1, 20; @%p1 bra big;
      again: add.u32 %r2, %r2, %r1; sub.u32 %r1, %r1, 1; setp.gt.s32 %p1, %r1, 0; @%p1 bra again;
      st.param.b32 [result], %r2; ret;
      big: st.param.b32 [result], %r1; ret; }
    """
    body = """
    { .param .b32 a; .param .b32 r; st.param.b32 [a+0], %r30; call.uni (r), triangle, (a); ld.param.b32 %r1, [r+0]; }
    { .reg .b32 %r1; mov.u32 %r1, 5; }
    and.b32 %r2, %r30, 3;
    table: .branchtargets L0, L1, L2, L2;
    brx.idx %r2, table;
    L0: mov.u32 %r3, 1000; bra.uni end;
    L1: mov.u32 %r3, 2000; bra.uni end;
    L2: mov.u32 %r3, 3000;
    end: add.u32 %r0, %r1, %r3; bar.sync 0;
    """
    wanted = [[1000, 2000, 3000, 3000][t % 4] + (t if t > 20 else max(t * (t + 1) // 2, 0)) for t in range(70)]
    for seed in range(3):
        assert words(body, 70, variables=functions, seed=seed) == wanted


def test_debug_sections_are_passed_over():
    sections = "\t.section\t.debug_info\n\t{\n.b32 44\n.b8 0\n\t}\n\t.section\t.debug_macinfo\t{\t}\n"
    text = kernel(STORE.replace("%r0", "%r30")).replace("ret;", ".loc 1 2 3\nret;") + sections
    out = np.zeros(32, np.uint32)
    Module(text).launch("test", (1, 1, 1), (32, 1, 1), args=[out])
    assert out.tolist() == list(range(32))


def test_an_endless_loop_and_a_trap_end_the_launch():
    with pytest.raises(PtxError, match="does not end"):
        Module(kernel("again: bra again;")).launch("test", (1, 1, 1), (32, 1, 1), args=[np.uint64(0)], limit=1000)
    with pytest.raises(PtxError, match=r"trap.*line"):
        words("setp.eq.u32 %p1, %r30, 5; @%p1 trap; mov.u32 %r0, 0;")


# ---- warps ----


def test_shuffles_and_votes():
    for form, source in (("bfly.b32 %r0, %r30, 5, 31", lambda t: t ^ 5), ("idx.b32 %r0, %r30, 7, 31", lambda t: 7),
                         ("down.b32 %r0, %r30, 3, 31", lambda t: t + 3 if t < 29 else t),
                         ("up.b32 %r0, %r30, 3, 0", lambda t: t - 3 if t > 2 else t),
                         ("idx.b32 %r0, %r30, 2, 0x181f", lambda t: t & 24 | 2)):  # fmt: skip
        assert words(f"shfl.sync.{form}, 0xffffffff;") == [source(t) for t in range(32)]
    odd = "and.b32 %r1, %r30, 1; setp.ne.u32 %p1, %r1, 0;"
    assert words(odd + "vote.sync.ballot.b32 %r0, %p1, 0xffffffff;") == [0xAAAAAAAA] * 32
    assert words(odd + "mov.u32 %r0, 0; @%p1 activemask.b32 %r0;") == [0, 0xAAAAAAAA] * 16
    assert words("redux.sync.add.u32 %r0, %r30, 0xffffffff;") == [496] * 32
    assert words("redux.sync.or.b32 %r0, %r30, 0xffffffff;") == [31] * 32
    assert words(odd + "match.any.sync.b32 %r0, %r1, 0xffffffff;") == [0x55555555, 0xAAAAAAAA] * 16


def test_a_shuffle_waits_for_the_lanes_it_names_and_refuses_others():
    half = "setp.lt.u32 %p1, %r30, 16; mov.u32 %r0, 9;"
    both = half + "@%p1 bra L; add.u32 %r2, %r30, 1; L: shfl.sync.bfly.b32 %r0, %r30, 16, 31, 0xffffffff;"
    assert words(both) == [t ^ 16 for t in range(32)]
    with pytest.raises(PtxError, match="deadlock"):
        words(half + "@%p1 shfl.sync.bfly.b32 %r0, %r30, 1, 31, 0xffffffff;")
    assert words(half + "@%p1 shfl.sync.bfly.b32 %r0, %r30, 1, 31, 0xffff;")[:16] == [t ^ 1 for t in range(16)]
    with pytest.raises(PtxError, match="does not take part"):
        words(half + "@%p1 shfl.sync.bfly.b32 %r0, %r30, 16, 31, 0xffff;")
    with pytest.raises(PtxError, match="mask does not name"):
        words(half + "shfl.sync.bfly.b32 %r0, %r30, 1, 31, 0xffff;")


def test_atomics_take_lanes_one_after_the_other():
    out = np.zeros(33, np.uint32)
    body = f"atom.global.add.u32 %r0, [%l30], 1; add.s64 %l30, %l30, 4; {STORE} red.global.max.u32 [%l30], %r0;"
    run(body, out, 32)
    assert out[0] == 32 and out[1] == 31 and len(set(out[2:].tolist())) == 31
    counts = [np.zeros(65, np.uint32) for _ in range(2)]
    for seed, count in enumerate(counts):
        run(f"atom.global.inc.u32 %r0, [%l30], 100; add.s64 %l30, %l30, 4; {STORE}", count, 64, seed)
        assert sorted(count[1:].tolist()) == list(range(64))
    assert counts[0].tolist() != counts[1].tolist()


# ---- the block ----

EXCHANGE = SHARED + "st.shared.b32 [%r1], %r30; {} xor.b32 %r2, %r1, 128; ld.shared.b32 %r0, [%r2];"


def test_a_missing_barrier_is_seen():
    for seed in range(4):
        assert words(EXCHANGE.format("bar.sync 0;"), 64, seed=seed, shared_bytes=256) == [t ^ 32 for t in range(64)]
        assert 0xFFFFFFFF in words(EXCHANGE.format(""), 64, seed=seed, shared_bytes=256)


def test_barriers_with_names_counts_and_reductions():
    body = "setp.lt.u32 %p1, %r30, 64; mov.u32 %r0, 0; @!%p1 bra end; {} end:"
    assert words(body.format("bar.sync 1, 64; mov.u32 %r0, 1;"), 96) == [1] * 64 + [0] * 32
    with pytest.raises(PtxError, match=r"deadlock(.|\n)*bar.sync 1, 96(.|\n)*2 of 3 warps"):
        words(body.format("bar.sync 1, 96;"), 96)
    assert words("setp.lt.u32 %p1, %r30, 40; barrier.cta.red.popc.aligned.u32 %r0, 0, %p1;", 96) == [40] * 96


def test_half_a_block_at_a_barrier_is_an_error():
    for count, reason in ((32, r"deadlock(.|\n)*1 of 2 warps"), (16, "exited")):
        with pytest.raises(PtxError, match=reason):
            words(f"mov.u32 %r0, 0; setp.ge.u32 %p1, %r30, {count}; @%p1 exit; bar.sync 0;", 64)
    with pytest.raises(PtxError, match="deadlock"):
        words("mov.u32 %r0, 0; setp.lt.u32 %p1, %r30, 8; @%p1 bar.sync 0;", 64)


# ---- cp.async ----

COPY = SHARED + "shl.b32 %r2, %r30, 4; add.u32 %r2, %r2, 1024; mad.wide.u32 %l1, %r30, 16, %l30;"


def copied(transfer: str, seed: int = 0) -> np.ndarray:
    """Copies 16 bytes a thread, adds 1 to the words and stores them."""
    out = np.arange(128, dtype=np.uint32)
    body = COPY + transfer + "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r2];"
    body += "".join(f"add.u32 %r{k}, %r{k}, 1;" for k in range(4, 8)) + "st.global.v4.b32 [%l1], {%r4, %r5, %r6, %r7};"
    run(body, out, 32, seed, shared_bytes=512)
    return out


def test_copies_land_before_their_wait_and_not_without_one():
    issue = "cp.async.cg.shared.global.L2::128B [%r2], [%l1], 16; cp.async.commit_group;"
    assert copied(issue + "cp.async.wait_group 0;").tolist() == list(range(1, 129))
    assert copied(issue + "cp.async.wait_all;").tolist() == list(range(1, 129))
    for missing in ("", "cp.async.wait_group 1;"):
        assert (copied(issue + missing) == 0).any()  # the poison, plus 1
    two = issue + issue.replace("[%r2]", "[%r1]").replace("cg", "ca").replace("16;", "4;")
    with pytest.raises(PtxError, match="out of bounds"):
        copied(two.replace("[%r1]", "[%r1+512]") + "cp.async.wait_group 0;")


def test_copies_of_fewer_bytes_fill_with_zeros():
    lanes = "shr.u32 %r9, %r30, 1; "
    got = copied(lanes + "cp.async.cg.shared.global [%r2], [%l1], 16, %r9; cp.async.wait_all;").view(np.uint8)
    plain = np.arange(128, dtype=np.uint32).view(np.uint8).reshape(32, 16).copy()
    for t in range(32):
        plain[t, t // 2 :] = 0
    assert (got.view(np.uint32) - 1).tolist() == plain.view(np.uint32).ravel().tolist()
    ignore = "setp.lt.u32 %p1, %r30, 16; cp.async.cg.shared.global [%r2], [%l1], 16, %p1; cp.async.wait_all;"
    assert copied(ignore).tolist() == [1] * 64 + list(range(65, 129))
    outside = "add.s64 %l1, %l1, 4096; cp.async.cg.shared.global [%r2], [%l1], 16, %r9; sub.s64 %l1, %l1, 4096;"
    assert (copied(f"mov.u32 %r9, 0; {outside} cp.async.wait_all;") == 1).all()  # nothing is read, nothing is wrong
    with pytest.raises(PtxError, match="out of bounds"):
        copied(f"mov.u32 %r9, 4; {outside} cp.async.wait_all;")
