"""wgmma in the PTX interpreter, against layouts written out here byte by byte, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest

from tests.device.handwritten import kernel
from tests.device.ptx import Module, PtxError

THREADS, COLUMNS = 128, 16
BITS = {16: 0, 32: 3, 64: 2, 128: 1}
"""What a descriptor says of a row of so many bytes."""
FILL = """
mov.u32 %r1, %r30;
again: ld.param.u64 %l1, [image]; shl.b32 %r2, %r1, 2; cvt.u64.u32 %l2, %r2; add.u64 %l1, %l1, %l2;
ld.global.b32 %r3, [%l1]; add.u32 %r2, %r2, 1024; st.shared.b32 [%r2], %r3;
add.u32 %r1, %r1, 128; setp.lt.u32 %p1, %r1, 4096; @%p1 bra again;
"""
FENCES = "fence.proxy.async.shared::cta; bar.sync 0; wgmma.fence.sync.aligned;"
END = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
STORE = "mad.wide.u32 %l30, %r30, 4, %l30;" + "".join(f"st.global.f32 [%l30 + {512 * k}], %f{k};" for k in range(8))
RESULT = "{" + ", ".join(f"%f{k}" for k in range(8)) + "}"
HALF = 8192
"""Where B begins, behind A."""


def place(row: int, depth: int, itemsize: int, wide: int, transposed: bool) -> int:
    """The byte of an element of a tile of 8-row patterns that follow each other; 16: no pattern at all.

    Leading and stride offsets as in `descriptor`.
    """
    if transposed:  # rows lie next to each other, `wide` bytes of them; then 8 places of depth; then the rest
        block, byte = divmod(row * itemsize, wide)
        at = byte + depth % 8 * wide + depth // 8 * 8 * wide + block * 16 * wide
    elif wide == 16:
        chunk, byte = divmod(depth * itemsize, 16)
        return byte + row % 8 * 16 + chunk * 128 + row // 8 * 256
    else:
        at = row * wide + depth * itemsize
    line = at // 128
    return at ^ (line % (wide // 16)) * 16


def descriptor(begin: int, wide: int, transposed: bool) -> int:
    leading, stride = (16 * wide, 8 * wide) if transposed else (128, 256 if wide == 16 else 8 * wide)
    return (1024 + begin) // 16 | leading // 16 << 16 | stride // 16 << 32 | BITS[wide] << 62


def encoded(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    return values.view(np.uint32) if kind == "tf32" else (values.view(np.uint32) >> 16).astype(np.uint16)


def operands(kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng, depth = np.random.default_rng(0), 8 if kind == "tf32" else 16
    return rng.integers(-8, 9, (64, depth)).astype(np.float32), rng.integers(-8, 9, (COLUMNS, depth)).astype(np.float32)


def image_of(a: np.ndarray, b: np.ndarray, kind: str, wide: int, transposed: bool) -> np.ndarray:
    """Shared memory, A then B."""
    image = np.zeros(16384, np.uint8)
    for matrix, begin in ((a, 0), (b, HALF)):
        bits = encoded(matrix, kind)
        for row, depth in np.ndindex(*matrix.shape):
            at = begin + place(row, depth, bits.itemsize, wide, transposed)
            image[at : at + bits.itemsize] = bits[row, depth].reshape(1).view(np.uint8)
    return image


def launch(body: str, image: np.ndarray, seed: int = 0) -> np.ndarray:
    """The result of a kernel that ends with its 8 registers of D in %f0 to %f7, as a matrix."""
    module = Module(kernel(body, ".param .u64 out, .param .u64 image").replace("sm_80", "sm_90a"))
    out = np.zeros((8, THREADS), np.float32)
    module.launch("test", (1, 1, 1), (THREADS, 1, 1), 16384, [out, image], seed)
    found = np.zeros((64, COLUMNS), np.float32)
    for i, thread in np.ndindex(8, THREADS):
        warp, group, t = thread // 32, thread % 32 // 4, thread % 4
        found[16 * warp + group + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * t + i % 2] = out[i, thread]
    return found


def product(kind: str, wide: int, transposed: bool, adds: str = "0", signs: str = "1, 1") -> str:
    left, right = descriptor(0, wide, transposed), descriptor(HALF, wide, transposed)
    flags = "" if kind == "tf32" else f", {int(transposed)}, {int(transposed)}"
    depth = 8 if kind == "tf32" else 16
    return (
        f"mov.u64 %l3, {left}; mov.u64 %l4, {right};"
        f"wgmma.mma_async.sync.aligned.m64n{COLUMNS}k{depth}.f32.{kind}.{kind} {RESULT}, "
        f"%l3, %l4, {adds}, {signs}{flags};"
    )


@pytest.mark.parametrize(
    ("kind", "wide", "transposed"),
    [(kind, wide, False) for kind in ("f16", "bf16", "tf32") for wide in BITS]
    + [(kind, wide, True) for kind in ("f16", "bf16") for wide in (32, 64, 128)],
)
def test_layouts(kind, wide, transposed):
    a, b = operands(kind)
    image = image_of(a, b, kind, wide, transposed)
    for seed in range(2):
        found = launch(FILL + FENCES + product(kind, wide, transposed) + END + STORE, image, seed)
        assert np.array_equal(found, a @ b.T)


def test_sums_and_signs():
    """Twice the product less once of it, in a predicate's words; operands with opposite signs."""
    a, b = operands("bf16")
    image = image_of(a, b, "bf16", 64, False)
    body = "setp.eq.u32 %p2, 0, 0;" + product("bf16", 64, False) + product("bf16", 64, False, adds="%p2")
    body += product("bf16", 64, False, adds="1", signs="-1, 1")
    assert np.array_equal(launch(FILL + FENCES + body + END + STORE, image), a @ b.T)


def test_fragment_of_a_in_registers():
    """Those of mma.sync, of each warp's 16 rows."""
    a, b = operands("bf16")
    image, bits = image_of(a, b, "bf16", 128, False), encoded(a, "bf16")
    for thread, i in np.ndindex(THREADS, 4):
        warp, group, t = thread // 32, thread % 32 // 4, thread % 4
        pair = bits[16 * warp + group + 8 * (i % 2), 8 * (i // 2) + 2 * t :][:2]
        image[4 * (4 * thread + i) :][:4] = pair.view(np.uint8)
    load = "shl.b32 %r4, %r30, 4; add.u32 %r4, %r4, 1024; ld.shared.v4.b32 {%r10, %r11, %r12, %r13}, [%r4];"
    multiply = (
        f"mov.u64 %l4, {descriptor(HALF, 128, False)};"
        f"wgmma.mma_async.sync.aligned.m64n{COLUMNS}k16.f32.bf16.bf16 {RESULT}, "
        "{%r10, %r11, %r12, %r13}, %l4, 0, 1, 1, 0;"
    )
    found = launch(FILL + "bar.sync 0;" + load + FENCES + multiply + END + STORE, image)
    assert np.array_equal(found, a @ b.T)


# ---- what must be seen ----

A, B = operands("f16")
IMAGE = image_of(A, B, "f16", 128, False)
MULTIPLY = product("f16", 128, False)
LATE = "mov.b32 %r5, 0; shl.b32 %r4, %r30, 2; add.u32 %r4, %r4, 1024; st.shared.b32 [%r4], %r5;"


def test_result_is_not_there_before_the_wait():
    found = launch(FILL + FENCES + MULTIPLY + "wgmma.commit_group.sync.aligned;" + STORE, IMAGE)
    assert np.isnan(found).all()


def test_wait_for_all_but_the_newest():
    """The second group's result is still out; the first one's registers are other ones."""
    second = MULTIPLY.replace("%f", "%q")
    declared = ".reg .f32 %q<8>;"
    wait = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 1;"
    body = declared + FILL + FENCES + MULTIPLY + "wgmma.commit_group.sync.aligned;" + second + wait
    assert np.array_equal(launch(body + STORE, IMAGE), A @ B.T)
    assert np.isnan(launch(body + STORE.replace("%f", "%q"), IMAGE)).all()


def test_operands_that_change_before_the_wait():
    """One order of many shows it: shared memory is read at a random moment."""
    body = FILL + FENCES + MULTIPLY + "wgmma.commit_group.sync.aligned; bar.sync 0;" + LATE + END + STORE
    results = [launch(body, IMAGE, seed) for seed in range(8)]
    assert any(not np.array_equal(found, A @ B.T) for found in results)


@pytest.mark.parametrize("fences", [FENCES, "bar.sync 0; fence.proxy.async; wgmma.fence.sync.aligned;"])
def test_fence_before_or_after_the_barrier(fences):
    assert np.array_equal(launch(FILL + fences + MULTIPLY + END + STORE, IMAGE), A @ B.T)


@pytest.mark.parametrize(
    ("fences", "message"),
    [
        ("bar.sync 0; wgmma.fence.sync.aligned;", "no fence.proxy.async"),
        ("fence.proxy.async.shared::cta; wgmma.fence.sync.aligned;", "no fence.proxy.async|nan"),
        ("fence.proxy.async.shared::cta; bar.sync 0;", "before any wgmma.fence"),
    ],
)
def test_missing_fence(fences, message):
    """Without the barrier a warp reads what another has not stored, or not fenced."""
    seen = []
    for seed in range(8):
        try:
            found = launch(FILL + fences + MULTIPLY + END + STORE, IMAGE, seed)
            seen.append("nan" if np.isnan(found).any() else "")
        except PtxError as error:
            seen.append(str(error))
    assert any(word in text for text in seen for word in message.split("|")), seen


def test_descriptor_outside_shared_memory():
    body = MULTIPLY.replace(str(descriptor(HALF, 128, False)), str(descriptor(15360, 128, False)))
    with pytest.raises(PtxError, match="leaves shared memory"):
        launch(FILL + FENCES + body + END + STORE, IMAGE)
