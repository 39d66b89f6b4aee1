// The table of tests/core/lanes.h; compiled once per instruction set, like the kernels.
#include "lanes.h"

#include "cpu/gemm.h"
#include "cpu/simd.h"

// after simd.h: philox4x32 needs to see multiply_wide for vectors
#include "core/philox.h"
#include "core/softmax.h"

MMK_NAMESPACE_BEGIN
namespace {

template <Float (*function)(Float)>
void map(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, function(load(x + i)));
}

template <Float (*function)(Half)>
void widen(const uint16_t* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    store(y + i, function(*reinterpret_cast<const HalfUnaligned*>(x + i)));
  }
}

template <Half (*function)(Float)>
void narrow(const float* x, uint16_t* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) *reinterpret_cast<HalfUnaligned*>(y + i) = function(load(x + i));
}

template <class T>
T load_as(const void* p) {
  T x;
  memcpy(&x, p, sizeof x);
  return x;
}

void pairs_of(const float* high, const float* low, uint32_t* pairs, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Float both = pair(load(high + i), load(low + i));
    memcpy(pairs + i, &both, sizeof both);
  }
}

void pairs_of_halves(const uint16_t* high, const uint16_t* low, uint32_t* pairs, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Float both = pair(load_as<Half>(high + i), load_as<Half>(low + i));
    memcpy(pairs + i, &both, sizeof both);
  }
}

void pairs_of_neighbours(const float* x, uint32_t* pairs, int64_t count) {
  for (int64_t i = 0; i < count; i += 2 * kLanes) {
    const Float both = pair_neighbours(load(x + i), load(x + i + kLanes));
    memcpy(pairs + i / 2, &both, sizeof both);
  }
}

void add_pairs(const uint32_t* a, const uint32_t* b, const float* c, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    store(y + i, multiply_add_pairs(load_as<Float>(a + i), load_as<Float>(b + i), load(c + i)));
  }
}

void philox(const uint32_t* counter, uint32_t key0, uint32_t key1, uint32_t* words, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    PhiloxBlock<SplitWord> block;
    for (int w = 0; w < 4; ++w) {
      Word word;
      memcpy(&word, counter + w * count + i, sizeof word);
      block.word[w] = split(word);
    }
    block = philox4x32(block, key0, key1);
    for (int w = 0; w < 4; ++w) {
      const Word word = join(block.word[w]);
      memcpy(words + w * count + i, &word, sizeof word);
    }
  }
}

void merge(const float* max_a, const float* max_b, float* row_max, float* factor_a, float* factor_b, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Merge<Float> m = merge_factors(load(max_a + i), load(max_b + i));
    store(row_max + i, m.row_max);
    store(factor_a + i, m.factor_a);
    store(factor_b + i, m.factor_b);
  }
}

void transpose(const float* from, float* to) { transpose_square(from, kLanes, to, kLanes); }

template <Start start, Layout layout>
void multiply_as(int64_t rows, int vectors, const float* a, const float* b, int64_t depth, float* c,
                 const float* factor) {
  const int64_t columns = static_cast<int64_t>(vectors) * kLanes;
  const int64_t a_stride = layout == Layout::kTransposed ? rows : depth;
  gemm<start, layout>(Element::kFloat, rows, vectors, a, a_stride, b, columns, depth, c, columns, factor);
}

void multiply(int64_t rows, int vectors, const float* a, bool transposed, const float* b, int64_t depth, float* c,
              const float* factor, bool factor_of_row) {
  const auto function = factor_of_row ? (transposed ? multiply_as<Start::kRescaleRows, Layout::kTransposed>
                                                    : multiply_as<Start::kRescaleRows, Layout::kRows>)
                                      : (transposed ? multiply_as<Start::kRescale, Layout::kTransposed>
                                                    : multiply_as<Start::kRescale, Layout::kRows>);
  function(rows, vectors, a, b, depth, c, factor);
}

float most(const float* x) { return horizontal_maximum(load(x)); }

}  // namespace

const LaneFunctions kLaneFunctions = {
    kLanes,
    map<exponential>,
    map<softmax_weight>,
    map<hyperbolic_tangent>,
    widen<widen_bfloat16>,
    widen<widen_float16>,
    narrow<narrow_bfloat16>,
    narrow<narrow_float16>,
    pairs_of,
    pairs_of_halves,
    pairs_of_neighbours,
    add_pairs,
    philox,
    merge,
    transpose,
    multiply,
    most,
    sum_in_four_chains,
};

MMK_NAMESPACE_END
