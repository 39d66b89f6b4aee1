// Online softmax (Milakov & Gimelshein 2018; Dao et al. 2022), templated on the lane type: a float, or a vector of rows.
//
// A row is the ordered merge of states over fixed chunks of keys, so that split and unsplit runs agree bit for bit. A
// state that saw no key has row_max = -inf and row_sum = 0, and merging it changes no bit of the other state.
#pragma once

#include "lane.h"

MMK_NAMESPACE_BEGIN

/// The shift for exp(logit - shift): a row without a visible key keeps -inf logits and must not compute -inf + inf.
template <class Lane>
MMK_HOST_DEVICE inline Lane safe_shift(Lane row_max) {
  return LaneOps<Lane>::zero_where_minus_infinity(row_max);
}

/// Factors that bring two states to their common maximum.
template <class Lane>
struct Merge {
  Lane row_max, factor_a, factor_b;
};

/// The sum, or the accumulator, of the merged state: which product is fused is written out.
template <class Lane>
MMK_HOST_DEVICE inline Lane merged(const Merge<Lane>& m, Lane a, Lane b) {
  return LaneOps<Lane>::multiply_add(a, m.factor_a, b * m.factor_b);
}

template <class Lane>
MMK_HOST_DEVICE inline Merge<Lane> merge_factors(Lane max_a, Lane max_b) {
  using Ops = LaneOps<Lane>;
  const Lane row_max = Ops::maximum(max_a, max_b);
  const Lane shift = safe_shift(row_max);
  return {row_max, Ops::exponential(max_a - shift), Ops::exponential(max_b - shift)};
}

MMK_NAMESPACE_END
