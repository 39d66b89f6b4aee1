// The one matrix micro-kernel: C[m][n] (+)= sum_k A(m, k) * B[k][n].
//
// A is read one element at a time and broadcast, B and C in vectors along n. Every element of C is one chain of fused
// multiply-adds over k in order, whatever the tile it falls in: bits do not depend on M, on the tile shape, or on where
// a caller cuts K. kTileRows x kTileVectors accumulators stay in registers.
//
// An element of A and B is a float or, in the same 32 bits, a pair of bf16, which is two links of the chain.
#pragma once

#include "simd.h"

MMK_NAMESPACE_BEGIN

enum class Element { kFloat, kPair };

inline int64_t numbers_in(Element element) { return element == Element::kPair ? 2 : 1; }
/// How many elements hold `numbers` numbers.
inline int64_t elements(Element element, int64_t numbers) { return ceil_div(numbers, numbers_in(element)); }

enum class Start {
  kZero,        // C = sum
  kScale,       // C = factor[0] * sum
  kAccumulate,  // C = C + sum, one chain from C on
  kAdd,         // C = C + sum, which is a chain of its own
  kRescale,     // C = C * factor[n] + sum
  kRescaleRows  // C = C * factor[m] + sum
};

/// A(m, k) stands at a[m * stride + k] or, kTransposed, at a[k * stride + m].
enum class Layout { kRows, kTransposed };

template <Element element>
inline Float multiply_add_elements(Float a, Float b, Float c) {
  return element == Element::kPair ? multiply_add_pairs(a, b, c) : multiply_add(a, b, c);
}

template <int M, int N, Start start, Layout layout, Element element>
inline void gemm_tile(const float* __restrict a, int64_t a_stride, const float* __restrict b, int64_t b_stride,
                      int64_t depth, float* __restrict c, int64_t c_stride, const float* __restrict factor) {
  Float sum[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      if (start == Start::kZero || start == Start::kScale || start == Start::kAdd) {
        sum[m][n] = splat(0.0f);
      } else {
        sum[m][n] = load(c + m * c_stride + n * kLanes);
        if (start == Start::kRescale) sum[m][n] = sum[m][n] * load(factor + n * kLanes);
        if (start == Start::kRescaleRows) sum[m][n] = sum[m][n] * splat(factor[m]);
      }
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Float right[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) right[n] = load(b + k * b_stride + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Float left = splat(layout == Layout::kRows ? a[m * a_stride + k] : a[k * a_stride + m]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[m][n] = multiply_add_elements<element>(left, right[n], sum[m][n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      if (start == Start::kScale) sum[m][n] = sum[m][n] * splat(factor[0]);
      if (start == Start::kAdd) sum[m][n] = load(c + m * c_stride + n * kLanes) + sum[m][n];
      store(c + m * c_stride + n * kLanes, sum[m][n]);
    }
  }
}

template <int M, int N, Start start, Layout layout, Element element>
inline void gemm_rest(int rows, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth,
                      float* c, int64_t c_stride, const float* factor) {
  if constexpr (M > 0) {
    if (rows == M) {
      gemm_tile<M, N, start, layout, element>(a, a_stride, b, b_stride, depth, c, c_stride, factor);
    } else {
      gemm_rest<M - 1, N, start, layout, element>(rows, a, a_stride, b, b_stride, depth, c, c_stride, factor);
    }
  }
}

template <int N, Start start, Layout layout, Element element>
inline void gemm_columns(int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                         int64_t depth, float* c, int64_t c_stride, const float* factor) {
  const int64_t step = layout == Layout::kRows ? a_stride : 1, factor_step = start == Start::kRescaleRows ? 1 : 0;
  int64_t m = 0;
  for (; m + kTileRows <= rows; m += kTileRows) {
    gemm_tile<kTileRows, N, start, layout, element>(a + m * step, a_stride, b, b_stride, depth, c + m * c_stride,
                                                    c_stride, factor + m * factor_step);
  }
  gemm_rest<kTileRows - 1, N, start, layout, element>(static_cast<int>(rows - m), a + m * step, a_stride, b, b_stride,
                                                      depth, c + m * c_stride, c_stride, factor + m * factor_step);
}

template <Start start, Layout layout, Element element>
inline void gemm_of(int64_t rows, int vectors, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                    int64_t depth, float* c, int64_t c_stride, const float* factor) {
  const int factor_step = start == Start::kRescale ? kLanes : 0;
  int v = 0;
  if (rows <= kFewTileRows) {  // so few rows leave registers for more columns, and need them to hide the latency
    for (; v + 2 * kTileVectors <= vectors; v += 2 * kTileVectors) {
      gemm_rest<kFewTileRows, 2 * kTileVectors, start, layout, element>(static_cast<int>(rows), a, a_stride,
                                                                        b + v * kLanes, b_stride, depth, c + v * kLanes,
                                                                        c_stride, factor + v * factor_step);
    }
  }
  for (; v + kTileVectors <= vectors; v += kTileVectors) {
    gemm_columns<kTileVectors, start, layout, element>(rows, a, a_stride, b + v * kLanes, b_stride, depth,
                                                       c + v * kLanes, c_stride, factor + v * factor_step);
  }
  if constexpr (kTileVectors > 1) {
    for (; v < vectors; ++v) {
      gemm_columns<1, start, layout, element>(rows, a, a_stride, b + v * kLanes, b_stride, depth, c + v * kLanes,
                                              c_stride, factor + v * factor_step);
    }
  }
}

/// `vectors` counts kLanes-wide columns of B and C; `depth` and the strides count elements.
template <Start start, Layout layout>
inline void gemm(Element element, int64_t rows, int vectors, const float* a, int64_t a_stride, const float* b,
                 int64_t b_stride, int64_t depth, float* c, int64_t c_stride, const float* factor = nullptr) {
  if constexpr (kBfloat16Pairs) {
    if (element == Element::kPair) {
      gemm_of<start, layout, Element::kPair>(rows, vectors, a, a_stride, b, b_stride, depth, c, c_stride, factor);
      return;
    }
  }
  gemm_of<start, layout, Element::kFloat>(rows, vectors, a, a_stride, b, b_stride, depth, c, c_stride, factor);
}

// ---- the same chains with links left out, for NaN or Inf that some elements of C must not see ----

/// Link k of a chain, of the element that holds it: a float as it is; one of a pair, the first in the high half.
inline Float link(Element element, Float holder, int64_t k) {
  if (element == Element::kFloat) return holder;
  return (Float)((Word)holder & (k % 2 ? 0xffffu : 0xffff0000u));
}
inline Float add_link(Element element, Float a, Float b, Float c) {
  return element == Element::kPair ? multiply_add_elements<Element::kPair>(a, b, c)
                                   : multiply_add_elements<Element::kFloat>(a, b, c);
}

/// gemm<kAccumulate, kTransposed> over the `links` (k, n) whose lane of `mask` is set, for NaN or Inf in A.
inline void gemm_isolated(Element element, int64_t rows, int vectors, const float* a, int64_t a_stride, const float* b,
                          int64_t b_stride, const int32_t* mask, int64_t mask_stride, int64_t links, float* c,
                          int64_t c_stride) {
  for (int64_t m = 0; m < rows; ++m) {
    for (int v = 0; v < vectors; ++v) {
      Float sum = load(c + m * c_stride + v * kLanes);
      for (int64_t k = 0; k < links; ++k) {
        const int64_t at = k / numbers_in(element);
        const Float left = link(element, splat(a[at * a_stride + m]), k);
        const Float right = link(element, load(b + at * b_stride + v * kLanes), k);
        const Float next = add_link(element, left, right, sum);
        sum = select(load(mask + k * mask_stride + v * kLanes), next, sum);
      }
      store(c + m * c_stride + v * kLanes, sum);
    }
  }
}

/// gemm<kAccumulate, kRows> over links [first, last) of (m, k) with mask[m][k - first] set, for NaN or Inf in B; without
/// a mask over all of them.
inline void gemm_isolated_rows(Element element, int64_t rows, int vectors, const float* a, int64_t a_stride,
                               const int32_t* mask, int64_t mask_stride, const float* b, int64_t b_stride,
                               int64_t first, int64_t last, float* c, int64_t c_stride) {
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t k = first; k < last; ++k) {
      if (mask && !mask[m * mask_stride + k - first]) continue;
      const int64_t at = k / numbers_in(element);
      const Float left = link(element, splat(a[m * a_stride + at]), k);
      for (int v = 0; v < vectors; ++v) {
        float* target = c + m * c_stride + v * kLanes;
        const Float right = link(element, load(b + at * b_stride + v * kLanes), k);
        store(target, add_link(element, left, right, load(target)));
      }
    }
  }
}

MMK_NAMESPACE_END
