// Products that are too deep for shared memory: a ring of slices, and verbs that add to an accumulator instead of starting
// it (product.h). The layout of the results is that of product.h.
#pragma once

#include "product.h"

MMK_NAMESPACE_BEGIN

/// Calls use(stage) for slices 0, 1, ... of which copy(slice, stage) starts the copies: kStages - 1 of them are on their way
/// while one is used. One barrier a slice says both that it has landed for all threads and that its predecessor's place is
/// free. Afterwards no copy is pending, for the last groups are empty, but other threads may still use the last slice.
template <int kStages, class Copy, class Use>
MMK_DEVICE void for_each_slice(int slices, const Copy& copy, const Use& use) {
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < slices) copy(s, s);
    commit_copies();
  }
  int stage = 0, next = kStages - 1;
#pragma unroll 1
  for (int s = 0; s < slices; ++s) {
    wait_copies<kStages - 2>();
    sync_block();
    if (s + kStages - 1 < slices) copy(s + kStages - 1, next);
    commit_copies();
    use(stage);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    next = next + 1 == kStages ? 0 : next + 1;
  }
}

/// c += a b: rows `first`.. of `a`, or, with `kTransposed`, columns `first`.. of a tile that holds a^T.
template <bool kTransposed, class A, class B, class C>
MMK_DEVICE void add_product(C& c, A a, uint32_t first, B b) {
  using T = typename A::T;
  static_assert((kTransposed ? A::kRows : A::kColumns) == B::kRows && C::kColumnTiles * 8 == B::kColumns,
                "shapes of a product");
  const uint32_t lane = lane_index();
  if constexpr (sizeof(T) == 2) {
    const Shared own_b = b.at(lane % 16, lane / 16);
#pragma unroll
    for (int k = 0; k < B::kRows / 16; ++k) {
      uint32_t left[C::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < C::kRowTiles; ++m) {
        if constexpr (kTransposed) {
          load_matrices_transposed(
              left[m], a.at(16 * k + lane / 16 * 8 + lane % 8, (first + 16 * m) / A::kChunkElements + lane / 8 % 2));
        } else {
          load_matrices(left[m], a.at(first + 16 * m + lane % 16, 2 * k + lane / 16));
        }
      }
#pragma unroll
      for (int n = 0; n < C::kColumnTiles / 2; ++n) {
        uint32_t right[4];
        load_matrices_transposed(right, (own_b ^ (n * 32)) + k * 16 * B::kRowBytes);
#pragma unroll
        for (int m = 0; m < C::kRowTiles; ++m) {
          multiply_add<T>(c.at[m][2 * n], left[m], right[0], right[1]);
          multiply_add<T>(c.at[m][2 * n + 1], left[m], right[2], right[3]);
        }
      }
    }
  } else {
    struct alignas(8) Two {
      float x[2];
    };
    const uint32_t group = lane / 4, pair = lane % 4 * 2;
#pragma unroll 4
    for (int k = 0; k < B::kRows; ++k) {
      float left[C::kRowTiles][2];
#pragma unroll
      for (int m = 0; m < C::kRowTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t row = first + 16 * m + 8 * half + group;
          left[m][half] = load<float>(kTransposed ? a.element(k, row) : a.element(row, k));
        }
#pragma unroll
      for (int n = 0; n < C::kColumnTiles; ++n) {
        const Two right = load<Two>(b.element(k, 8 * n + pair));
#pragma unroll
        for (int m = 0; m < C::kRowTiles; ++m)
#pragma unroll
          for (int j = 0; j < 4; ++j) c.at[m][n][j] = fused(left[m][j / 2], right.x[j % 2], c.at[m][n][j]);
      }
    }
  }
}

MMK_NAMESPACE_END
