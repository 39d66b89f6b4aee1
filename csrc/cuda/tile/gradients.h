// From the products s = q k and dP = dO v of a lane's pairs to the weights and the gradients of the logits:
//
//   x = softcap tanh(scale s / softcap) + addend       weight = exp(x - shift) factor
//   gradient = weight (dropped dP - delta) (1 - tanh^2)
//
// The same text for accumulators whose rows are queries and for those whose columns are. What a lane knows of its pairs in
// bits has bit 4 n + j for number j of column tile n (product.h).
#pragma once

#include "gradient_call.h"
#include "pairs.h"
#include "softmax.h"

MMK_NAMESPACE_BEGIN

/// One pair of a general kernel: s becomes the weight after dropout, without its scale of the kept; dp the gradient of the
/// product scale s, or, without `kSlope`, that of the biased logit. `kMasked`: a hidden pair gets -0 in both, which no other
/// pair has (add_poison asks).
template <bool kMasked, bool kSlope = true>
MMK_DEVICE void pair_step(const AttentionProblem& p, float& s, float& dp, const RowStatistics& row, float addend,
                          bool hidden, bool kept) {
  const Capped x = capped(p, s);
  const float weight = exp2_approx((x.logit + addend - row.shift) * kLog2E) * row.factor;
  float dropped = dp;
  if (p.dropout.active) dropped = kept ? dp * p.dropout.keep_scale : 0.0f;
  float gradient = weight * (dropped - row.delta);
  if constexpr (kSlope) gradient *= x.slope;
  s = kept ? weight : 0.0f;
  dp = kMasked ? gradient + 0.0f : gradient;  // -0 becomes 0
  if (kMasked && hidden) s = dp = -0.0f;
}

/// The same of a plain kernel, where the sum of dp has started from -delta, and `shift` is the row's, times -log2(e).
template <bool kMasked>
MMK_DEVICE void plain_pair_step(float log2_scale, float& s, float& dp, float shift, bool hidden) {
  s = exp2_approx(fused(s, log2_scale, shift));
  dp = kMasked ? s * dp + 0.0f : s * dp;
  if (kMasked && hidden) s = dp = -0.0f;
}

/// The kept pairs of an accumulator whose rows are queries: `upper` and `lower`, against keys from `key` on.
template <class C>
MMK_DEVICE uint32_t kept_of_rows(const DropoutKey& d, DropoutRow upper, DropoutRow lower, int64_t key) {
  uint32_t bits = 0;
  const int pair = lane_index() % 4 * 2;
#pragma unroll
  for (int n = 0; n < C::kColumnTiles; ++n) {
    const Kept kept = kept_pairs(d, upper, lower, static_cast<uint32_t>(key + 8 * n + pair), key % 4 == 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) bits |= static_cast<uint32_t>(kept.at[j]) << (4 * n + j);
  }
  return bits;
}

/// The same where rows are keys, from `key` on (that of the warp's first row), and columns are queries from `query` on. Four
/// neighbouring keys share a Philox block, and four lanes have them: each makes one of the four blocks of their two octets
/// of keys and two queries, and they tell one another which of its words are kept.
template <class C>
MMK_DEVICE uint32_t kept_of_columns(const DropoutKey& d, uint32_t head, int64_t query, int64_t key) {
  uint32_t bits = 0;
  const uint32_t lane = lane_index(), pair = lane % 4 * 2, group = lane / 4, member = group % 4;
#pragma unroll 1
  for (int n = 0; n < C::kColumnTiles; ++n) {
    const uint32_t first = static_cast<uint32_t>(query) + 8 * n + pair;
    uint32_t own = 0;
    if (key % 4 == 0) {
      const uint32_t row = group + member / 2 * 8;
      const PhiloxBlock<uint32_t> block = d.block(head, first + member % 2, static_cast<uint32_t>(key) + row);
      uint32_t kept = 0;
#pragma unroll
      for (int word = 0; word < 4; ++word) kept |= static_cast<uint32_t>(block.word[word] >= d.threshold) << word;
      kept <<= 4 * member;
      kept |= shuffle_xor(kept, 4);
      kept |= shuffle_xor(kept, 8);
      kept >>= member;
#pragma unroll
      for (int j = 0; j < 4; ++j) own |= (kept >> (4 * j) & 1) << j;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t at = static_cast<uint32_t>(key) + group + j / 2 * 8;
        const PhiloxBlock<uint32_t> block = d.block(head, first + j % 2, at);
        const uint32_t low = at % 2 ? block.word[1] : block.word[0], high = at % 2 ? block.word[3] : block.word[2];
        own |= static_cast<uint32_t>((at % 4 / 2 ? high : low) >= d.threshold) << j;
      }
    }
    bits |= own << (4 * n);
  }
  return bits;
}

/// c += weights b; `kMasked`: numbers of b that are not finite reach only the rows whose pair is not hidden (weight -0).
template <bool kMasked, class W, class B, class C>
MMK_DEVICE void accumulate(C& c, const W& weights, B b) {
  const Weights<typename B::T, W> narrowed(weights);
  float no_sums[C::kRowTiles][4];
  const bool poisoned = kMasked && has_poison(b);
  weights_by_rows<false>(c, narrowed, b, no_sums, poisoned);
  if (poisoned) add_poison(c, narrowed, b);
}

/// Adds to `c` the sums of the chunks before, which rest in device memory, each number where its own thread put it, if there
/// are `some`; and leaves the whole there. By 32 numbers, with a barrier of the block between them: else ptxas starts the loads
/// of all numbers at once, and spills what lives beyond them.
template <int kThreads, class C>
MMK_DEVICE void add_to_saved(C& c, Global<float> memory, bool some) {
  const Global<float> own = memory + thread_index();
#pragma unroll
  for (int n = 0; n < C::kColumnTiles; ++n) {
    if (n > 0 && n % 8 == 0) sync_block();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Global<float> to = own + (4 * n + j) * kThreads;
      float& x = c.at[0][n][j];
      if (some) x = load_written(to) + x;
      store(to, x);
    }
  }
}

/// Row r of the lane's two, times `by`, to the `dim` elements from `to` on.
template <class T, class C>
MMK_DEVICE void write_row(const C& c, int r, Global<T> to, int dim, float by) {
  const int pair = lane_index() % 4 * 2;
  const Global<T> own = to + pair;
#pragma unroll
  for (int n = 0; n < C::kColumnTiles; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e)
      if (8 * n + pair + e < dim) store(own + (8 * n + e), narrow<T>(c.at[0][n][2 * r + e] * by));
}

MMK_NAMESPACE_END
