// What the tests call of csrc/cpu/simd.h and csrc/cpu/gemm.h, as plain functions: one table per instruction set.
// Arrays of `count` elements; count is a multiple of 16, the widest lane count.
#pragma once

#include <cstdint>

namespace mmkernels {

struct LaneFunctions {
  int lanes;
  void (*exponential)(const float* x, float* y, int64_t count);
  void (*softmax_weight)(const float* x, float* y, int64_t count);
  void (*hyperbolic_tangent)(const float* x, float* y, int64_t count);
  void (*widen_bfloat16)(const uint16_t* x, float* y, int64_t count);
  void (*widen_float16)(const uint16_t* x, float* y, int64_t count);
  void (*narrow_bfloat16)(const float* x, uint16_t* y, int64_t count);
  void (*narrow_float16)(const float* x, uint16_t* y, int64_t count);
  /// words of two bf16, the first in the high half
  void (*pair)(const float* high, const float* low, uint32_t* pairs, int64_t count);
  void (*pair_halves)(const uint16_t* high, const uint16_t* low, uint32_t* pairs, int64_t count);
  /// neighbours of x (`count` of them), one vector of pairs from two vectors
  void (*pair_neighbours)(const float* x, uint32_t* pairs, int64_t count);
  /// c + products of the high halves + products of the low halves
  void (*multiply_add_pairs)(const uint32_t* a, const uint32_t* b, const float* c, float* y, int64_t count);
  /// counter and words are (4, count)
  void (*philox)(const uint32_t* counter, uint32_t key0, uint32_t key1, uint32_t* words, int64_t count);
  /// row_max, factor_a, factor_b of merging two softmax states
  void (*merge)(const float* max_a, const float* max_b, float* row_max, float* factor_a, float* factor_b,
                int64_t count);
  /// (lanes, lanes) in place of its transpose
  void (*transpose)(const float* from, float* to);
  /// c = factor * c + a b over `vectors` vectors of columns; a is (rows, depth), or (depth, rows) when transposed;
  /// a factor is of a column, or of a row
  void (*gemm)(int64_t rows, int vectors, const float* a, bool transposed, const float* b, int64_t depth, float* c,
               const float* factor, bool factor_of_row);
  float (*horizontal_maximum)(const float* x);
  float (*sum_in_four_chains)(const float* x, int64_t count);
};

#define MMK_DECLARE(isa)                     \
  namespace isa {                            \
  extern const LaneFunctions kLaneFunctions; \
  }
MMK_DECLARE(baseline)
MMK_DECLARE(vec16)
#if defined(__x86_64__)
MMK_DECLARE(avx2)
MMK_DECLARE(avx512)
MMK_DECLARE(avx512bf16)
#endif
#undef MMK_DECLARE

}  // namespace mmkernels
