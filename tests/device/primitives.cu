// One small kernel for each function of csrc/cuda/ptx. The tests compile this file, run its PTX and compare with numpy.
// A thread takes its operands from `in` and leaves its results in `out`, with the stride that the kernel says.
#include <ptx/convert.h>
#include <ptx/math.h>
#include <ptx/matrix.h>
#include <ptx/memory.h>
#include <ptx/sync.h>

using mmkernels::BFloat16;
using mmkernels::Half;
using mmkernels::Words;
using namespace mmkernels::device;

#define KERNEL extern "C" __global__ void

// ---- device.h ----

KERNEL indices(int* out) {
  const int block = block_index_x() + gridDim.x * (block_index_y() + gridDim.y * block_index_z());
  int* mine = out + 6 * (block * blockDim.x + thread_index());
  mine[0] = thread_index(), mine[1] = lane_index(), mine[2] = warp_index();
  mine[3] = block_index_x(), mine[4] = block_index_y(), mine[5] = block_index_z();
}

// ---- math.h, three operands and one result ----

#define MATH(name, expression)                                       \
  KERNEL name(const float* in, float* out) {                         \
    const int i = thread_index();                                    \
    const float a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2]; \
    (void)a, (void)b, (void)c;                                       \
    out[i] = expression;                                             \
  }
MATH(math_exp2, exp2_approx(a))
MATH(math_log2, log2_approx(a))
MATH(math_reciprocal, reciprocal(a))
MATH(math_fused, fused(a, b, c))
MATH(math_maximum, maximum(a, b))

KERNEL math_lowest_bit(const uint32_t* in, int* out) { out[thread_index()] = lowest_bit(in[thread_index()]); }

// ---- convert.h ----

#define CONVERT(T)                                                                               \
  KERNEL widen_##T(const T* in, float* out) { out[thread_index()] = widen(in[thread_index()]); } \
  KERNEL narrow_##T(const float* in, T* out) { out[thread_index()] = narrow<T>(in[thread_index()]); }
CONVERT(float)
CONVERT(Half)
CONVERT(BFloat16)
KERNEL pack_Half(const float* in, uint32_t* out) {
  out[thread_index()] = pack<Half>(in[2 * thread_index()], in[2 * thread_index() + 1]);
}
KERNEL pack_BFloat16(const float* in, uint32_t* out) {
  out[thread_index()] = pack<BFloat16>(in[2 * thread_index()], in[2 * thread_index() + 1]);
}

// ---- memory.h ----

#define MOVE_GLOBAL(name, T, Out)                                                            \
  KERNEL name(const T* in, Out* out) {                                                       \
    store(global<Out>(out) + thread_index(),                                                 \
          static_cast<Out>(load(global<T>(static_cast<const void*>(in)) + thread_index()))); \
  }
MOVE_GLOBAL(global_8, uint8_t, uint32_t)
MOVE_GLOBAL(global_16, uint16_t, uint16_t)
MOVE_GLOBAL(global_32, uint32_t, uint32_t)
KERNEL global_64(const uint64_t* in, uint32_t* out) {
  const uint64_t x = load(global<uint64_t>(static_cast<const void*>(in)) + thread_index());
  store(global<uint32_t>(out) + thread_index(), static_cast<uint32_t>(x >> 32 ^ x));
}
KERNEL global_128(const float* in, float* out) {
  const auto from = global<float>(static_cast<const void*>(in)) + 4 * thread_index();
  store16(global<float>(out) + 4 * thread_index(), load16(from));
}
KERNEL global_written(float* in, float* out) {
  const auto at = global<float>(in) + thread_index();
  store(at, 2 * load_written(at));
  out[thread_index()] = load_written(at);
}
KERNEL pointers(const float* in, uint32_t* out) {
  const auto at = global<float>(static_cast<const void*>(in)) + thread_index();
  const bool nothing = static_cast<bool>(global<float>(static_cast<void*>(nullptr)));
  out[thread_index()] = at.aligned16() + 2 * static_cast<bool>(at) + 4 * nothing;
}

// Through shared memory in reverse order, with both ways to make an address.
#define MOVE_SHARED(name, T)                                                      \
  KERNEL name(const T* in, T* out) {                                              \
    const int i = thread_index(), bytes = sizeof(T);                              \
    store(shared_memory() + i * bytes, in[i]);                                    \
    sync_block();                                                                 \
    out[i] = load<T>((shared_memory() + i * bytes) ^ ((blockDim.x - 1) * bytes)); \
  }
MOVE_SHARED(shared_16, uint16_t)
MOVE_SHARED(shared_32, uint32_t)
MOVE_SHARED(shared_64, Words<2>)
MOVE_SHARED(shared_128, Words<4>)

// Three groups of copies; a group is read once it must have landed. Odd threads copy nothing in the last.
template <int pending>
__device__ void take(Words<4>* out, int group) {
  wait_copies<pending>();
  out[3 * thread_index() + group] = load<Words<4>>(shared_memory() + 16u * (3 * thread_index() + group));
}
KERNEL copies(const Words<4>* in, Words<4>* out) {
  for (int group = 0; group < 3; group++) {
    const int at = 3 * thread_index() + group;
    const auto from = global<Words<4>>(static_cast<const void*>(in)) + at;
    copy16_async(shared_memory() + 16u * at, from, group < 2 || thread_index() % 2 == 0);
    commit_copies();
  }
  take<2>(out, 0), take<1>(out, 1), take<0>(out, 2);
}

// ---- sync.h ----

KERNEL sync_within_a_warp(const uint32_t* in, uint32_t* out) {
  store(shared_memory() + 4u * thread_index(), in[thread_index()]);
  sync_warp();
  out[thread_index()] = load<uint32_t>((shared_memory() + 4u * thread_index()) ^ 124u);
}
KERNEL shuffles(const uint32_t* in, uint32_t* out) {
  const int i = thread_index();
  out[5 * i] = shuffle_xor(in[i], 5);
  out[5 * i + 1] = bits_as<uint32_t>(shuffle_xor(bits_as<float>(in[i]), 16));
  out[5 * i + 2] = bits_as<uint32_t>(shuffle(bits_as<float>(in[i]), (3 * i + 1) % 32));
  out[5 * i + 3] = warp_or(in[i]);
  out[5 * i + 4] = warp_and(in[i]);
}

// ---- matrix.h: in shared memory, four 8 x 8 matrices one after the other; in registers, fragments as they are ----

KERNEL matrices(const Words<4>* in, Words<4>* out) {
  const int i = thread_index();
  store(shared_memory() + 16u * i, in[i]);
  sync_warp();
  Words<4> straight, transposed;
  load_matrices(straight.word, shared_memory() + 16u * i);
  load_matrices_transposed(transposed.word, shared_memory() + 16u * i);
  out[2 * i] = straight;
  out[2 * i + 1] = transposed;
}
#define MULTIPLY(name, T, start)                                                \
  KERNEL name(const uint32_t* a, const uint32_t* b, const float* c, float* d) { \
    const int i = thread_index();                                               \
    uint32_t x[4];                                                              \
    float y[4];                                                                 \
    for (int k = 0; k < 4; k++) x[k] = a[4 * i + k], y[k] = c[4 * i + k];       \
    start<T>(y, x, b[2 * i], b[2 * i + 1]);                                     \
    for (int k = 0; k < 4; k++) d[4 * i + k] = y[k];                            \
  }
MULTIPLY(multiply_Half, Half, multiply)
MULTIPLY(multiply_BFloat16, BFloat16, multiply)
MULTIPLY(multiply_add_Half, Half, multiply_add)
MULTIPLY(multiply_add_BFloat16, BFloat16, multiply_add)
