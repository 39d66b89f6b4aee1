"""What nvcc makes of small CUDA sources, run in the interpreter; and faults planted into its output are seen."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.device.compile import nvcc, ptx_of
from tests.device.ptx import Module, PtxError

pytestmark = pytest.mark.skipif(nvcc() is None, reason="no nvcc on the PATH to compile CUDA with")
ARCHITECTURES = [80, 90]

SMALL = r"""
struct Problem { const float* x; float* y; int n; float scale; long long stride; };
__constant__ float weights[4] = {0.5f, 1.0f, 2.0f, 4.0f};
__device__ __noinline__ float slow(float x, int n) {
  for (int i = 0; i < n; i++) x = sqrtf(x + i) * weights[i & 3];
  return x;
}
extern "C" __global__ void ragged(Problem p) {
  __shared__ float rows[96];
  float local[8];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  rows[threadIdx.x] = i < p.n ? p.x[i * p.stride] : 0.f;
  __syncthreads();
  float x = rows[blockDim.x - 1 - threadIdx.x];
  for (int k = 0; k < 8; k++) local[k] = x * k;
  x = local[threadIdx.x % 8] + slow(x, threadIdx.x % 5);
  switch (threadIdx.x % 7) {
    case 0: x += 1; break;
    case 1: x *= 2; break;
    case 2: x -= 3; break;
    case 3: x = -x; break;
    case 4: x = x / 3; break;
    case 5: x = x * x; break;
    default: x = 0; break;
  }
  if (i < p.n) p.y[i] = x * p.scale;
}
extern "C" __global__ void sums(const unsigned* x, unsigned* total, unsigned long long* wide, int n) {
  unsigned sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i] / 7 + x[i] % 5;
  for (int k = 16; k; k /= 2) sum += __shfl_down_sync(0xffffffffu, sum, k);
  if (threadIdx.x % 32 == 0) { atomicAdd(total, sum); atomicMax(wide, (unsigned long long)sum << 20); }
}
"""


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_structs_functions_constants_local_arrays_and_switches(arch):
    n, stride, block = 250, 2, 96
    rng = np.random.default_rng(0)
    x, y = rng.random(n * stride).astype(np.float32), np.zeros(n, np.float32)
    module = Module(ptx_of(SMALL, arch))
    fields = [("x", "u8"), ("y", "u8"), ("n", "i4"), ("scale", "f4"), ("stride", "i8")]
    problem = (module.memory.register(x), module.memory.register(y), n, 0.5, stride)
    module.launch("ragged", (3, 1, 1), (block, 1, 1), args=[np.array([problem], fields).tobytes()], seed=arch)
    padded = np.append(x[::stride], np.zeros(3 * block - n)).astype(np.float64)
    for i in range(n):
        t = i % block
        v = slow = padded[i - t + block - 1 - t]
        for k in range(t % 5):
            slow = np.sqrt(slow + k) * (0.5, 1.0, 2.0, 4.0)[k & 3]
        v = v * (t % 8) + slow
        v = [v + 1, v * 2, v - 3, -v, v / 3, v * v, 0.0][t % 7]
        assert abs(y[i] - v * 0.5) <= 1e-5 * max(abs(v), 1), i


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_loops_division_and_atomics(arch):
    x = np.random.default_rng(1).integers(0, 2**32, 1000, np.uint64).astype(np.uint32)
    for seed in range(2):
        total, wide = np.zeros(1, np.uint32), np.zeros(1, np.uint64)
        module = Module(ptx_of(SMALL, arch))
        module.launch("sums", (2, 1, 1), (64, 1, 1), args=[x, total, wide, np.int32(len(x))], seed=seed)
        each = (x // 7 + x % 5).astype(np.uint64)
        assert total[0] == each.sum() % 2**32
        warps = [sum(int(each[i]) for i in range(len(x)) if i % 128 // 32 == w) % 2**32 for w in range(4)]
        assert wide[0] == max(warps) << 20


# A (rows x 16 k) times B (16 k x 8 columns a warp): a ring of two tiles, filled ahead of their use by the whole block.
PRODUCT = r"""
#include <ptx/matrix.h>
#include <ptx/memory.h>
#include <ptx/sync.h>
using namespace mmkernels::device;
extern "C" __global__ void __launch_bounds__(64) product(const uint16_t* a, const uint16_t* b, float* out, int steps) {
  const Shared ring = shared_memory();
  const int thread = thread_index(), lane = lane_index(), warp = warp_index();
  auto fetch = [&](int step) {
    const Shared tile = ring + 1024u * (step & 1);
    const bool is_a = thread < 32;
    const int row = thread % 32 / 2, half = thread % 2;
    const uint16_t* from = is_a ? a + row * 16 * steps + 16 * step + 8 * half : b + (16 * step + row) * 16 + 8 * half;
    copy16_async(tile + (is_a ? 0u : 512u) + 32u * row + 16u * half, global<uint16_t>(from), true);
  };
  float c[4] = {0, 0, 0, 0};
  fetch(0);
  commit_copies();
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) fetch(step + 1);
    commit_copies();
    wait_copies<1>();
    sync_block();
    const Shared tile = ring + 1024u * (step & 1);
    uint32_t x[4], y[4];
    load_matrices(x, tile + 32u * (lane % 16) + 16u * (lane / 16));
    load_matrices_transposed(y, tile + 512u + 32u * (lane % 16) + 16u * (lane / 16));
    multiply_add<mmkernels::Half>(c, x, warp ? y[2] : y[0], warp ? y[3] : y[1]);
    sync_block();
  }
  for (int i = 0; i < 4; i++)
    store(global<float>(out + (lane / 4 + i / 2 * 8) * 16 + 8 * warp + lane % 4 * 2 + i % 2), c[i]);
}
"""


def product_error(text: str, seed: int) -> float:
    """The largest error; infinite when anything is not a number."""
    steps, rng = 5, np.random.default_rng(2)
    a = rng.standard_normal((16, 16 * steps)).astype(np.float16)
    b = rng.standard_normal((16 * steps, 16)).astype(np.float16)
    out = np.zeros((16, 16), np.float32)
    Module(text).launch("product", (1, 1, 1), (64, 1, 1), 2048, [a, b, out, np.int32(steps)], seed)
    error = np.abs(out - a.astype(np.float64) @ b.astype(np.float64))
    return float(error.max()) if np.isfinite(error).all() else np.inf


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_product_through_a_ring_of_asynchronous_copies(arch):
    for seed in range(4):
        assert product_error(ptx_of(PRODUCT, arch), seed) < 1e-5


FAULTS = {
    "a wait for one group too few": (r"cp\.async\.wait_group\s+1", "cp.async.wait_group 2"),
    "no wait": (r"cp\.async\.wait_group\s+1;", ""),
    "no commit": (r"cp\.async\.commit_group;", ""),
    "no barrier": (r"bar\.sync\s+0;", ""),
    "no barrier before the next copy": (
        r"(bar\.sync\s+0;(?:(?!bar\.sync).)*?mma(?:(?!bar\.sync).)*?)bar\.sync\s+0;",
        r"\1",
    ),
    "not transposed": (r"\.x4\.trans", ".x4"),
    "b's words swapped": (r"(mma\.sync[^;]*?\}, \{[^}]*\}, )\{(%r\d+), (%r\d+)\}", r"\1{\3, \2}"),
    "a's words swapped": (r"(mma\.sync[^;]*?\}, )\{(%r\d+), (%r\d+), (%r\d+)", r"\1{\2, \4, \3"),
    "bfloat16": (r"f32\.f16\.f16\.f32", "f32.bf16.bf16.f32"),
    "rows misaligned": (r"(ldmatrix[^;]*)\];", r"\1+8];"),
    "half the block at the barrier": (r"bar\.sync\s+0;", "bar.sync 0, 32;"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_planted_into_the_compilers_output_are_seen(name):
    text = ptx_of(PRODUCT, 80)
    broken, count = re.subn(*FAULTS[name], text, flags=re.S)
    assert count and broken != text, "the fault was not planted"
    for seed in range(6):
        try:
            if product_error(broken, seed) > 1e-5:
                return
        except PtxError:
            return
    pytest.fail("nobody saw it")


def test_compiling_twice_is_reading_once(tmp_path):
    source = tmp_path / "kernel.cu"
    (tmp_path / "number.h").write_text("#define NUMBER 17\n")
    source.write_text('#include "number.h"\nextern "C" __global__ void one(int* x) { *x = NUMBER; }\n')
    for number in (17, 18):
        (tmp_path / "number.h").write_text(f"#define NUMBER {number}\n")
        out = np.zeros(1, np.int32)
        Module(ptx_of(source, 80)).launch("one", (1, 1, 1), (1, 1, 1), args=[out])
        assert out[0] == number
    with pytest.raises(RuntimeError, match="nonsense"):
        ptx_of("nonsense;", 80)
