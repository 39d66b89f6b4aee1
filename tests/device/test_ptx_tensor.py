"""Tensor-core instructions against the fragment tables of the PTX ISA, written out here lane by lane; conversions."""

from __future__ import annotations

import numpy as np
import pytest

from tests.device.handwritten import apply, kernel, run
from tests.device.ptx import Module, PtxError


def to_bits(values: np.ndarray, kind: str) -> np.ndarray:
    """float32 to f16 or bf16 bits; the values are chosen so that nothing is lost."""
    return (
        values.astype(np.float16).view(np.uint16) if kind == "f16" else (values.view(np.uint32) >> 16).astype(np.uint16)
    )


def element_of_a(lane: int, i: int, kind: str) -> tuple[int, int]:
    """Row and column of element i of lane's A fragment (ISA: groupID = lane >> 2, threadID_in_group = lane % 4)."""
    group, thread = lane >> 2, lane % 4
    if kind == "tf32":  # m16n8k8: a0..a3
        return group + 8 * (i % 2), thread + 4 * (i >= 2)
    row = group if i // 2 in (0, 2) else group + 8
    return row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)


@pytest.mark.parametrize("kind, depth", [("f16", 16), ("bf16", 16), ("f16", 8), ("bf16", 8), ("tf32", 8), ("tf32", 4)])
def test_mma(kind, depth):
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((16, depth), (depth, 8), (16, 8)))
    per = 1 if kind == "tf32" else 2
    a_count, b_count = depth // 2 // per, depth // 4 // per
    fragments = np.zeros((32, a_count + b_count + 4), np.uint32)
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        for i in range(per * a_count):
            put(fragments[lane], i, a[element_of_a(lane, i, kind)], kind, 0)
        for i in range(per * b_count):
            row = thread + 4 * i if kind == "tf32" else thread * 2 + (i & 1) + (8 if i >= 2 else 0)
            put(fragments[lane], i, b[row, group], kind, a_count)
        for i in range(4):
            fragments[lane, a_count + b_count + i] = c[group + 8 * (i >= 2), 2 * thread + (i & 1)].view(np.uint32)
    registers = [f"%r{k}" for k in range(fragments.shape[1])]
    parts = np.split(np.array(registers), [a_count, a_count + b_count])
    operands = ", ".join("{" + ", ".join(part) + "}" for part in parts)
    body = "ld.param.u64 %l0, [fragments]; mad.wide.u32 %l0, %r30, 4, %l0; mad.wide.u32 %l30, %r30, 4, %l30;"
    body += "".join(f"ld.global.b32 {name}, [%l0 + {128 * k}];" for k, name in enumerate(registers))
    body += f"mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 {{%f0, %f1, %f2, %f3}}, {operands};"
    body += "".join(f"st.global.f32 [%l30 + {128 * k}], %f{k};" for k in range(4))
    module = Module(kernel(body, ".param .u64 out, .param .u64 fragments"))
    out = np.zeros((4, 32), np.float32)
    module.launch("test", (1, 1, 1), (32, 1, 1), args=[out, np.ascontiguousarray(fragments.T)])
    for lane in range(32):
        for i in range(4):
            row, column = (lane >> 2) + 8 * (i >= 2), 2 * (lane % 4) + (i & 1)
            assert out[i, lane] == a[row] @ b[:, column] + c[row, column]


def put(words: np.ndarray, i: int, value: np.float32, kind: str, begin: int) -> None:
    if kind == "tf32":
        words[begin + i] = value.view(np.uint32)
    else:
        words[begin + i // 2] |= int(to_bits(np.array([value]), kind)[0]) << 16 * (i & 1)


FILL = """
shl.b32 %r1, %r30, 4; add.u32 %r2, %r1, 1024; mul.lo.u32 %r3, %r30, 0x00080008; add.u32 %r3, %r3, 0x00010000;
add.u32 %r4, %r3, 0x00020002; add.u32 %r5, %r3, 0x00040004; add.u32 %r6, %r3, 0x00060006;
st.shared.v4.b32 [%r2], {%r3, %r4, %r5, %r6}; bar.warp.sync 0xffffffff; mad.wide.u32 %l30, %r30, 4, %l30;
"""  # 16-bit element e of row r is 8 r + e


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(count, transposed):
    names = ", ".join(f"%r{10 + i}" for i in range(count))
    trans = ".trans" if transposed else ""
    body = FILL + f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{names}}}, [%r2];"
    body += "".join(f"st.global.b32 [%l30 + {128 * i}], %r{10 + i};" for i in range(count))
    out = np.zeros((count, 32), np.uint32)
    run(body, out, shared_bytes=512)
    halves = out.view(np.uint16).reshape(count, 32, 2)
    for i in range(count):
        for lane in range(32):
            for h in range(2):
                row, column = lane // 4, 2 * (lane % 4) + h
                row, column = (column, row) if transposed else (row, column)
                assert halves[i, lane, h] == 8 * (8 * i + row) + column


@pytest.mark.parametrize("transposed", [False, True])
def test_stmatrix_undoes_ldmatrix(transposed):
    trans = ".trans" if transposed else ""
    body = FILL + f"ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r2];"
    body += f"stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r2 + 512], {{%r10, %r11, %r12, %r13}};"
    body += "ld.shared.v4.b32 {%r14, %r15, %r16, %r17}, [%r2 + 512]; mad.wide.u32 %l30, %r30, 12, %l30;"
    out = np.zeros((32, 4), np.uint32)
    run(body + "st.global.v4.b32 [%l30], {%r14, %r15, %r16, %r17};", out, shared_bytes=1024)
    assert out.view(np.uint16).ravel().tolist() == list(range(256))


def test_tensor_instructions_need_the_whole_warp_and_aligned_rows():
    out = np.zeros(32, np.uint32)
    load = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r10}, [%r2];"
    with pytest.raises(PtxError, match=r"misaligned.*thread 0 .*ldmatrix"):
        run(FILL + "add.u32 %r2, %r2, 8;" + load, out, shared_bytes=1024)
    with pytest.raises(PtxError, match=r"out of bounds.*thread 0 .*ldmatrix"):
        run(FILL + "add.u32 %r2, %r2, 512;" + load, out, shared_bytes=512)
    with pytest.raises(PtxError, match="exited"):
        run(FILL + "setp.lt.u32 %p1, %r30, 16; @%p1 exit;" + load, out, shared_bytes=512)
    with pytest.raises(PtxError, match="deadlock"):
        run(FILL + f"setp.lt.u32 %p1, %r30, 16; @%p1 bra L; {load} L: bar.sync 0;", out, shared_bytes=512)
    run(FILL + load, out, shared_bytes=512)


# ---- conversions: the same bits in other formats ----


def bfloat16(values: np.ndarray) -> np.ndarray:
    """To nearest even, by hand on the bits."""
    found = []
    for value in values:
        bits = int(value.view(np.uint32))
        keep, rest = bits >> 16, bits & 0xFFFF
        found.append(0x7FFF if np.isnan(value) else keep + (rest > 0x8000 or (rest == 0x8000 and keep & 1)))
    return np.array(found, np.uint16)


def test_floats_to_16_bits():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 2**32, 256, np.uint64).astype(np.uint32).view(np.float32)
    a[:64] = (rng.standard_normal(64) * 8).astype(np.float32)
    a[64:80] = (a[64:80].view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)  # ties of bfloat16
    b = np.roll(a, 7)
    with np.errstate(all="ignore"):
        half = [np.where(np.isnan(x), np.nan, x.astype(np.float16)).astype(np.float16) for x in (a, b)]
    packed = apply("cvt.rn.f16x2.f32 %0, %1, %2;", a, b, result=np.uint32).view(np.float16).reshape(-1, 2)
    np.testing.assert_array_equal(packed, np.stack(half[::-1], axis=1))
    np.testing.assert_array_equal(apply("cvt.rn.f16.f32 %0, %1;", a, result=np.float16), half[0])
    np.testing.assert_array_equal(apply("cvt.f32.f16 %0, %1;", half[0], result=np.float32), half[0].astype(np.float32))
    packed = apply("cvt.rn.bf16x2.f32 %0, %1, %2;", a, b, result=np.uint32)
    assert packed.tolist() == (bfloat16(b).astype(np.uint32) | bfloat16(a).astype(np.uint32) << 16).tolist()
    assert apply("cvt.rn.bf16.f32 %0, %1;", a, result=np.uint16).tolist() == bfloat16(a).tolist()
    truncated = apply("cvt.rz.bf16.f32 %0, %1;", a[:64], result=np.uint16)
    assert truncated.tolist() == (a[:64].view(np.uint32) >> 16).tolist()


def test_numbers_to_integers_and_back():
    a = np.array(
        [0.5, 1.5, 2.5, -0.5, -1.5, 3e9, -3e9, 1e20, np.nan, np.inf, -np.inf, 7.99, -7.99, 0, 1, 255.5], np.float32
    )
    for mode, function in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        exact = [0 if np.isnan(x) else x for x in function(a.astype(np.float64))]
        signed = [int(min(max(x, -(2**31)), 2**31 - 1)) for x in exact]
        unsigned = [int(min(max(x, 0), 2**32 - 1)) for x in exact]
        assert apply(f"cvt.{mode}.s32.f32 %0, %1;", a, result=np.int32).tolist() == signed
        assert apply(f"cvt.{mode}.u32.f32 %0, %1;", a, result=np.uint32).tolist() == unsigned
    n = np.array([0, 1, -1, 2**31 - 1, -(2**31), 2**24 + 1, 127, -128, 32767, 40000, 255, 256], np.int32)
    assert apply("cvt.rn.f32.s32 %0, %1;", n, result=np.float32).tolist() == n.astype(np.float32).tolist()
    assert apply("cvt.s64.s32 %0, %1;", n, result=np.int64).tolist() == n.tolist()
    assert apply("cvt.u64.u32 %0, %1;", n, result=np.uint64).tolist() == n.astype(np.uint32).tolist()
    assert apply("cvt.s32.s8 %0, %1;", n, result=np.int32).tolist() == n.astype(np.int8).tolist()
    assert apply("cvt.sat.s16.s32 %0, %1;", n, result=np.int16).tolist() == np.clip(n, -32768, 32767).tolist()
    wide = np.array([2**40 + 1, -(2**62), 5, -1], np.int64)
    assert apply("cvt.u32.u64 %0, %1;", wide, result=np.uint32).tolist() == (wide & 0xFFFFFFFF).tolist()
