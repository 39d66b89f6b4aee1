// Online softmax of rows whose logits are accumulators of products (product.h): every lane holds the state of its own rows,
// which the four lanes of a quad share.
//
// Row r of a lane is row 16 (r / 2) + 8 (r % 2) + lane / 4 of its warp.
#pragma once

#include "../../core/softmax.h"
#include "product.h"

MMK_NAMESPACE_BEGIN

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

/// A row's shift follows its maximum only where that has grown by more than this many powers of two: in between weights
/// are at most 256, which neither fp16 nor a sum minds, and what was accumulated need not be rescaled.
constexpr float kSlackLog2 = 8.0f;

template <int kRowTiles>
struct SoftmaxState {
  static constexpr int kRows = 2 * kRowTiles;
  float shift[kRows];    // of the exponents: -inf before the first visible key
  float row_sum[kRows];  // of this lane's columns until the end of a chunk, unless a product makes the sums

  MMK_DEVICE void clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) shift[r] = -INFINITY, row_sum[r] = 0.0f;
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

/// Turns logits into weights exp(scale * logit - shift), moves the shift where it must and gives the factors of what was
/// accumulated before. True, in every lane of the warp, where one of them is not 1. Masked logits are -inf; with `kMarked`
/// their weights are -0 (add_poison asks).
///
/// With `kScaled` the logits are still to be multiplied by `scale` > 0, in the same step as the shift; without, they are
/// finished, and may be as small as finfo.min: the difference comes first, for times log2(e) that would be -inf.
template <bool kScaled, bool kMarked, bool kSums, class C>
MMK_DEVICE bool softmax_step(C& logits, SoftmaxState<C::kRowTiles>& state, float scale,
                             float (&factor)[2 * C::kRowTiles]) {
  const float log2_scale = kScaled ? scale * kLog2E : kLog2E;
  bool moves = false;
#pragma unroll
  for (int r = 0; r < 2 * C::kRowTiles; ++r) {
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < C::kColumnTiles; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) top = maximum(top, logits.at[r / 2][n][r % 2 * 2 + e]);
    top = quad_maximum(top);
    const float before = state.shift[r];
    const bool grows = (top - before) * log2_scale > kSlackLog2;  // a NaN, of two infinities, does not
    state.shift[r] = grows ? top : before;
    factor[r] = grows ? exp2_approx((before - top) * log2_scale) : 1.0f;
    moves = moves || grows;
  }
#pragma unroll
  for (int r = 0; r < 2 * C::kRowTiles; ++r) {
    const float shift = safe_shift(state.shift[r]), scaled_shift = shift * log2_scale;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < C::kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = logits.at[r / 2][n][r % 2 * 2 + e];
        float weight =
            kScaled ? exp2_approx(fused(x, log2_scale, -scaled_shift)) : exp2_approx((x - shift) * log2_scale);
        if (kMarked) weight = x == -INFINITY ? -0.0f : weight;
        x = weight;
        if (kSums) sum += weight;
      }
    }
    if (kSums) state.row_sum[r] = fused(state.row_sum[r], factor[r], sum);
  }
  return warp_any(moves);
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
