// Online softmax of rows whose logits are accumulators of products (product.h): every lane holds the state of its own rows,
// which the four lanes of a quad share.
//
// Row r of a lane is row 16 (r / 2) + 8 (r % 2) + lane / 4 of its warp.
#pragma once

#include "../../core/softmax.h"
#include "product.h"

MMK_NAMESPACE_BEGIN

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

/// exp(x) of the device: the special function unit's, where csrc/core asks a lane for it.
MMK_DEVICE float exponential(float x) { return exp2_approx(x * kLog2E); }

template <int kRowTiles>
struct SoftmaxState {
  static constexpr int kRows = 2 * kRowTiles;
  float row_max[kRows];
  float row_sum[kRows];  // of this lane's columns until `finish`, unless a product makes the sums

  MMK_DEVICE void clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) row_max[r] = -INFINITY, row_sum[r] = 0.0f;
  }
};

MMK_DEVICE float quad_maximum(float x) {
  x = maximum(x, shuffle_xor(x, 1));
  return maximum(x, shuffle_xor(x, 2));
}
MMK_DEVICE float quad_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

/// Turns logits into weights exp(scale * logit - row_max), brings the state to the new maximum and gives the factors of
/// what was accumulated before. Masked logits are -inf; with `kMarked` their weights are -0 (add_poison asks).
///
/// With `kScaled` the logits are still to be multiplied by `scale` > 0, in the same step as the shift; without, they are
/// finished, and may be as small as finfo.min: the difference comes first, for times log2(e) that would be -inf.
template <bool kScaled, bool kMarked, bool kSums, class C>
MMK_DEVICE void softmax_step(C& logits, SoftmaxState<C::kRowTiles>& state, float scale,
                             float (&factor)[2 * C::kRowTiles]) {
  const float log2_scale = scale * kLog2E;
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = 2 * m + half;
      float top = logits.at[m][0][2 * half];
#pragma unroll
      for (int n = 0; n < C::kColumnTiles; ++n) {
        top = maximum(top, logits.at[m][n][2 * half]);
        top = maximum(top, logits.at[m][n][2 * half + 1]);
      }
      top = maximum(state.row_max[r], quad_maximum(top));
      const float shift = safe_shift(top), before = state.row_max[r];
      state.row_max[r] = top;
      const float scaled_shift = shift * log2_scale;
      factor[r] = kScaled ? exp2_approx(fused(before, log2_scale, -scaled_shift)) : exponential(before - shift);
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < C::kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = logits.at[m][n][2 * half + e];
          float weight = kScaled ? exp2_approx(fused(x, log2_scale, -scaled_shift)) : exponential(x - shift);
          if (kMarked) weight = x == -INFINITY ? -0.0f : weight;
          x = weight;
          if (kSums) sum += weight;
        }
      }
      if (kSums) state.row_sum[r] = fused(state.row_sum[r], factor[r], sum);
    }
  }
}

/// Multiplies the rows of an accumulator.
template <class C>
MMK_DEVICE void scale_rows(C& c, const float (&factor)[2 * C::kRowTiles]) {
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m)
#pragma unroll
    for (int n = 0; n < C::kColumnTiles; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) c.at[m][n][j] *= factor[2 * m + j / 2];
}

MMK_NAMESPACE_END
