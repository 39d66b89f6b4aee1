// The one table of concat_fusion kernels. The launch code, the emulator and the documentation read it.
//
// Every product has a wide tile, 128 x 128, and a small one, 64 x 64, for calls that would leave processors idle. They add
// up in the same order, so that the choice changes no bit.
#pragma once

#include "../kernels/concat_fusion.h"
#include "../kernels/fusion_gradients.h"
#include "../kernels/fusion_sums.h"

MMK_NAMESPACE_BEGIN

template <class T>
struct WideFusion {
  template <bool kNorm>
  using Forward = ConcatFusion<T, 4, 2, kNorm>;
  using SourceGradient = FusionSourceGradient<T, 4, 2>;
  template <bool kNorm>
  using WeightGradient = FusionWeightGradient<T, 4, 2, kNorm>;
};

template <class T>
struct SmallFusion {
  template <bool kNorm>
  using Forward = ConcatFusion<T, 2, 1, kNorm>;
  using SourceGradient = FusionSourceGradient<T, 2, 1>;
  template <bool kNorm>
  using WeightGradient = FusionWeightGradient<T, 2, 1, kNorm>;
};

MMK_NAMESPACE_END
