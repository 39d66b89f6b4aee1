// Products of tiles by a warp. The results stay in registers, in the layout of mma's C (ptx/matrix.h), whatever the dtype:
// fp32 operands are multiplied by ordinary fused products, exactly, into the same places.
//
//   number j of tile (m, n) is row 16 m + lane / 4 + 8 (j / 2), column 8 n + 2 (lane % 4) + j % 2
#pragma once

#include <ptx/convert.h>
#include <ptx/math.h>
#include <ptx/matrix.h>
#include <ptx/sync.h>

#include <type_traits>

#include "tile.h"

MMK_NAMESPACE_BEGIN

template <int kRowTiles_, int kColumnTiles_>
struct Accumulator {
  static constexpr int kRowTiles = kRowTiles_, kColumnTiles = kColumnTiles_;
  float at[kRowTiles][kColumnTiles][4];

  MMK_DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) at[m][n][j] = 0.0f;
  }
};

/// c = a b^T, or with `kAdd` c += a b^T, over the columns of both: rows `first`.. of `a` by all rows of `b`.
template <bool kAdd = false, class A, class B, class C>
MMK_DEVICE void rows_by_rows(C& c, A a, uint32_t first, B b) {
  using T = typename A::T;
  static_assert(A::kColumns == B::kColumns && C::kColumnTiles * 8 == B::kRows, "shapes of a product");
  const uint32_t lane = lane_index();
  if constexpr (sizeof(T) == 2) {
    const uint32_t own_a = A::offset(first + lane % 16, lane / 16);
    const uint32_t own_b = B::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int k = 0; k < A::kColumns / 16; ++k) {
      uint32_t left[C::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < C::kRowTiles; ++m)
        load_matrices(left[m], a.base + A::along(own_a, k) + m * 16 * A::kRowBytes);
#pragma unroll
      for (int n = 0; n < C::kColumnTiles / 2; ++n) {
        uint32_t right[4];
        load_matrices(right, b.base + B::along(own_b, k) + n * 16 * B::kRowBytes);
#pragma unroll
        for (int m = 0; m < C::kRowTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if (k == 0 && !kAdd) {
              multiply<T>(c.at[m][2 * n + half], left[m], right[2 * half], right[2 * half + 1]);
            } else {
              multiply_add<T>(c.at[m][2 * n + half], left[m], right[2 * half], right[2 * half + 1]);
            }
          }
        }
      }
    }
  } else {
    struct alignas(16) Four {
      float x[4];
    };
    if constexpr (!kAdd) c.clear();
    const uint32_t group = lane / 4, pair = lane % 4 * 2;
#pragma unroll(kAdd || A::kChunks > 16 ? 2 : 4)
    for (int chunk = 0; chunk < A::kChunks; ++chunk) {
      Four left[C::kRowTiles][2];
#pragma unroll
      for (int m = 0; m < C::kRowTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) left[m][half] = load<Four>(a.at(first + 16 * m + 8 * half + group, chunk));
#pragma unroll
      for (int n = 0; n < C::kColumnTiles; ++n) {
        const Four right[2] = {load<Four>(b.at(8 * n + pair, chunk)), load<Four>(b.at(8 * n + pair + 1, chunk))};
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int m = 0; m < C::kRowTiles; ++m)
#pragma unroll
            for (int j = 0; j < 4; ++j) c.at[m][n][j] = fused(left[m][j / 2].x[i], right[j % 2].x[i], c.at[m][n][j]);
      }
    }
  }
}

/// The weights of a tile as the left operand of a product: accumulators narrowed to T, which stay what they are in fp32.
template <class T, class C>
struct Weights {
  static constexpr int kRowTiles = C::kRowTiles, kDepth = C::kColumnTiles / 2;
  uint32_t word[kRowTiles][kDepth][4];

  MMK_DEVICE explicit Weights(const C& c) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int k = 0; k < kDepth; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          word[m][k][i] = pack<T>(c.at[m][2 * k + i / 2][i % 2 * 2], c.at[m][2 * k + i / 2][i % 2 * 2 + 1]);
  }
  /// The weight of column 8 tile + column, in the upper or lower row of this lane's pair of rows. Selected, should `tile` be
  /// known at run time only.
  MMK_DEVICE float of_column(int m, int tile, int half, int column) const {
    uint32_t own = 0;
#pragma unroll
    for (int t = 0; t < 2 * kDepth; ++t) own = t == tile ? word[m][t / 2][t % 2 * 2 + half] : own;
    const uint32_t two = bits_as<uint32_t>(shuffle(bits_as<float>(own), lane_index() / 4 * 4 + column / 2));
    return widen(T{static_cast<uint16_t>(column % 2 ? two >> 16 : two)});
  }
};
template <class C>
struct Weights<float, C> {
  static constexpr int kRowTiles = C::kRowTiles;
  const C& c;
  MMK_DEVICE explicit Weights(const C& weights) : c(weights) {}
  MMK_DEVICE float of_column(int m, int tile, int half, int column) const {
    float even = 0.0f, odd = 0.0f;
#pragma unroll
    for (int t = 0; t < C::kColumnTiles; ++t) {
      even = t == tile ? c.at[m][t][2 * half] : even;
      odd = t == tile ? c.at[m][t][2 * half + 1] : odd;
    }
    return shuffle(column % 2 ? odd : even, lane_index() / 4 * 4 + column / 2);
  }
};

template <class T>
MMK_DEVICE bool finite_bits(uint32_t word) {
  constexpr uint32_t kExponent = sizeof(T) == 4 ? 0x7f800000u : std::is_same<T, Half>::value ? 0x7c00u : 0x7f80u;
  if constexpr (sizeof(T) == 4) return (word & kExponent) != kExponent;
  return (word & kExponent) != kExponent && (word >> 16 & kExponent) != kExponent;
}

/// Two packed numbers with 0 where one is not finite.
template <class T>
MMK_DEVICE uint32_t finite_part(uint32_t word) {
  constexpr uint32_t kExponent = std::is_same<T, Half>::value ? 0x7c00u : 0x7f80u;
  const uint32_t low = (word & kExponent) == kExponent ? 0u : word & 0xffffu;
  const uint32_t high = (word >> 16 & kExponent) == kExponent ? 0u : word & 0xffff0000u;
  return low | high;
}

/// c += weights b, where b holds a row for every column of the weights. With `kSums`, `sum` += the rows of the weights
/// (narrowed, as the product sees them). Where it is to `isolate`, a number of b that is not finite counts as 0, and
/// add_poison follows.
template <bool kSums, class T, class W, class B, class C>
MMK_DEVICE void weights_by_rows(C& c, const Weights<T, W>& weights, B b, float (&sum)[C::kRowTiles][4], bool isolate) {
  static_assert(W::kColumnTiles * 8 == B::kRows && C::kColumnTiles * 8 == B::kColumns, "shapes of a product");
  const uint32_t lane = lane_index();
  if constexpr (sizeof(T) == 2) {
    const uint32_t own = B::offset(lane % 16, lane / 16);
    const uint32_t ones = pack<T>(1.0f, 1.0f);
#pragma unroll
    for (int k = 0; k < B::kRows / 16; ++k) {
      if constexpr (kSums) {
#pragma unroll
        for (int m = 0; m < C::kRowTiles; ++m) multiply_add<T>(sum[m], weights.word[m][k], ones, ones);
      }
#pragma unroll
      for (int n = 0; n < C::kColumnTiles / 2; ++n) {
        uint32_t right[4];
        load_matrices_transposed(right, b.base + B::along(own, n) + k * 16 * B::kRowBytes);
        if (isolate) {
#pragma unroll
          for (int i = 0; i < 4; ++i) right[i] = finite_part<T>(right[i]);
        }
#pragma unroll
        for (int m = 0; m < C::kRowTiles; ++m) {
          multiply_add<T>(c.at[m][2 * n], weights.word[m][k], right[0], right[1]);
          multiply_add<T>(c.at[m][2 * n + 1], weights.word[m][k], right[2], right[3]);
        }
      }
    }
  } else {
    struct alignas(8) Two {
      float x[2];
    };
    const uint32_t pair = lane % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < W::kColumnTiles; ++tile) {
#pragma unroll(C::kColumnTiles > 16 ? 1 : 2)
      for (int column = 0; column < 8; ++column) {
        float weight[C::kRowTiles][2];
#pragma unroll
        for (int m = 0; m < C::kRowTiles; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) weight[m][half] = weights.of_column(m, tile, half, column);
#pragma unroll
        for (int n = 0; n < C::kColumnTiles; ++n) {
          const Two right = load<Two>(b.element(8 * tile + column, 8 * n + pair));
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float number = right.x[j % 2];
            const bool counts = !isolate || finite_bits<float>(bits_as<uint32_t>(number));
#pragma unroll
            for (int m = 0; m < C::kRowTiles; ++m) {
              const float more = fused(weight[m][j / 2], number, c.at[m][n][j]);
              c.at[m][n][j] = counts ? more : c.at[m][n][j];
            }
          }
        }
      }
    }
  }
}

/// Whether a tile holds a NaN or an infinity; the same answer in every lane of the warp.
template <class B>
MMK_DEVICE bool has_poison(B b) {
  uint32_t found = 0;
#pragma unroll 2
  for (int i = lane_index(); i < B::kRows * B::kChunks; i += 32) {
    const Words<4> chunk = load<Words<4>>(b.at(i / B::kChunks, i % B::kChunks));
#pragma unroll
    for (int j = 0; j < 4; ++j) found |= finite_bits<typename B::T>(chunk.word[j]) ? 0u : 1u;
  }
  return warp_or(found) != 0;
}

/// Adds what weights_by_rows left out when it isolated: for every pair that is not masked (a masked one has weight -0) the
/// product of its weight with a number that is not finite.
template <class W, class B, class C>
MMK_DEVICE void add_poison(C& c, const W& weights, B b) {
  using T = typename B::T;
  const uint32_t pair = lane_index() % 4 * 2;
#pragma unroll 1
  for (int tile = 0; tile < B::kRows / 8; ++tile) {
#pragma unroll 1
    for (int column = 0; column < 8; ++column) {
#pragma unroll
      for (int n = 0; n < C::kColumnTiles; ++n) {
        float number[2];
        bool poison[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          number[e] = widen(load<T>(b.element(8 * tile + column, 8 * n + pair + e)));
          poison[e] = !finite_bits<float>(bits_as<uint32_t>(number[e]));
        }
        if (!warp_any(poison[0] || poison[1])) continue;
#pragma unroll
        for (int m = 0; m < C::kRowTiles; ++m) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float weight = weights.of_column(m, tile, j / 2, column);
            const bool masked = bits_as<uint32_t>(weight) == 0x80000000u;
            float& to = c.at[m][n][j];
            to = poison[j % 2] && !masked ? fused(weight, number[j % 2], to) : to;
          }
        }
      }
    }
  }
}

MMK_NAMESPACE_END
