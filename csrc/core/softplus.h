// softplus with relative accuracy at both ends, templated on the lane type: a float, or a vector.
//
// -log sigmoid(u) = softplus(-u) is e^-u where u is large and -u where it is very negative: log(1 + e^x) as written would
// round the first to 0 and overflow in the second.
#pragma once

#include "lane.h"

MMK_NAMESPACE_BEGIN

/// log(1 + t) for t in [0, 1], within 3 ulp: 2 atanh(t / (2 + t)), whose series is in squares of at most 1/9.
template <class Lane>
MMK_HOST_DEVICE inline Lane log_one_plus(Lane t) {
  using Ops = LaneOps<Lane>;
  const Lane s = t / (t + Ops::splat(2.0f)), z = s * s;
  Lane p = Ops::splat(0.122047015f);
  p = Ops::multiply_add(p, z, Ops::splat(0.106971338f));
  p = Ops::multiply_add(p, z, Ops::splat(0.143103123f));
  p = Ops::multiply_add(p, z, Ops::splat(0.199993476f));
  p = Ops::multiply_add(p, z, Ops::splat(0.333333403f));
  const Lane twice = s + s;
  return Ops::multiply_add(p * z, twice, twice);
}

/// log(1 + e^x); x itself where that is large, e^x where it is very negative (0 below -87.3), NaN kept.
template <class Lane>
MMK_HOST_DEVICE inline Lane softplus(Lane x) {
  using Ops = LaneOps<Lane>;
  const Lane zero = Ops::splat(0.0f), minus_magnitude = zero - Ops::maximum(x, zero - x);
  return Ops::maximum(zero, x) + log_one_plus(Ops::exponential(minus_magnitude));  // in this order a NaN stays
}

MMK_NAMESPACE_END
