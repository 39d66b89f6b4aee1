// What a machine can do at most on one instruction set, for benchmarks to compare with.
//
//   fma_peak    chains of fused multiply-adds in registers, more of them than the latency needs: no memory is touched
//   bf16_peak   the same of what multiplies bf16 on this instruction set
//   read_peak   the sum of a buffer: each thread adds up one stretch of it, as four streams with two accumulators each

#include "gemm.h"
#include "kernels.h"

MMK_NAMESPACE_BEGIN
namespace {

// Enough for a latency of 4 on two units, or of 6 on two; AVX2 has 16 registers, two of them for the factors.
constexpr int kChains = 12;
constexpr int kStreams = 4;
constexpr int64_t kStep = 2 * kLanes;

volatile float sink;  // what is computed must go somewhere, or it is not computed

void keep(Float x) {
  float sum = 0.0f;
  for (int i = 0; i < kLanes; ++i) sum += x[i];
  sink = sum;
}

template <Element element>
void fma_chains(void* context, int64_t) {
  const int64_t steps = *static_cast<const int64_t*>(context);
  Float chain[kChains];
  for (int i = 0; i < kChains; ++i) chain[i] = splat(static_cast<float>(i));
  const Float a = splat(0.999f), b = splat(0.5f);
  // floats: a chain of products as well as of sums, for the product a b alone could be computed once
  const auto next = [&](Float x) {
    return element == Element::kPair ? multiply_add_pairs(a, b, x) : multiply_add(x, a, b);
  };
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chain[i] = next(chain[i]);
  }
  Float sum = chain[0];
  for (int i = 1; i < kChains; ++i) sum += chain[i];
  keep(sum);
}

struct Stretches {
  const float* data;
  int64_t stream_length;
};

void read_stretch(void* context, int64_t index) {
  const Stretches stretches = *static_cast<const Stretches*>(context);
  const int64_t length = stretches.stream_length;
  const float* data = stretches.data + index * kStreams * length;
  Float sum[kStreams][2];
  for (auto& pair : sum) pair[0] = pair[1] = splat(0.0f);
  for (int64_t i = 0; i < length; i += kStep) {
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) {
      sum[s][0] += load(data + s * length + i);
      sum[s][1] += load(data + s * length + i + kLanes);
    }
  }
  for (int s = 1; s < kStreams; ++s) sum[0][0] += sum[s][0] + sum[s][1];
  keep(sum[0][0] + sum[0][1]);
}

}  // namespace

int64_t fma_peak(int64_t steps, const Threads& threads) {
  threads.run(threads.count, &steps, fma_chains<Element::kFloat>);
  return 2 * kLanes * kChains * steps * threads.count;
}

int64_t bf16_peak(int64_t steps, const Threads& threads) {
  if constexpr (kBfloat16Pairs) {
    threads.run(threads.count, &steps, fma_chains<Element::kPair>);
    return 4 * kLanes * kChains * steps * threads.count;
  } else {
    return fma_peak(steps, threads);
  }
}

int64_t read_peak(const float* data, int64_t count, const Threads& threads) {
  Stretches stretches{data, count / (threads.count * kStreams) / kStep * kStep};
  threads.run(threads.count, &stretches, read_stretch);
  return stretches.stream_length * kStreams * threads.count * static_cast<int64_t>(sizeof(float));
}

MMK_NAMESPACE_END
