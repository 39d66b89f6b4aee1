"""What Triton's compiler emits, run in the interpreter: a product, whose copies it pipelines through shared memory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.device.ptx import Module

triton = pytest.importorskip("triton", reason="triton is not installed")
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

ROWS, COLUMNS, STEP = 128, 64, 32


@triton.jit
def product(a, b, c, depth, rows: tl.constexpr, columns: tl.constexpr, step: tl.constexpr):
    row, column, k = tl.program_id(0) * rows + tl.arange(0, rows), tl.arange(0, columns), tl.arange(0, step)
    total = tl.zeros((rows, columns), tl.float32)
    for begin in range(0, depth, step):
        x = tl.load(a + row[:, None] * depth + (begin + k)[None, :])
        y = tl.load(b + (begin + k)[:, None] * columns + column[None, :])
        total = tl.dot(x, y, total)
    tl.store(c + row[:, None] * columns + column[None, :], total)


def test_product():
    signature = {"a": "*fp16", "b": "*fp16", "c": "*fp32", "depth": "i32"}
    constants = {"rows": ROWS, "columns": COLUMNS, "step": STEP}
    source = ASTSource(
        product,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in range(4)},
    )
    options = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    module, rng = Module(compiled.asm["ptx"]), np.random.default_rng(0)
    scratch = [np.uint64(0)] * (len(module.kernel("product").parameters) - 4)
    for seed, depth in enumerate((STEP, 128, 224)):
        a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((2 * ROWS, depth), (depth, COLUMNS)))
        c = np.zeros((2 * ROWS, COLUMNS), np.float32)
        args = [a, b, c, np.int32(depth), *scratch]
        module.launch("product", (2, 1, 1), (128, 1, 1), compiled.metadata.shared, args, seed)
        assert (np.abs(c - a.astype(np.float64) @ b.astype(np.float64)) < 1e-4).all()
