// The one table of concat_fusion kernels. The launch code, the emulator and the documentation read it.
//
// Every product has a wide tile, 128 x 128, and a small one, 64 x 64, for calls that would leave processors idle; and its
// loop is twice there: `whole` where all operands have whole chunks of 16 bytes, and for all others. They add up in the
// same order, so that the choice changes no bit.
#pragma once

#include "../kernels/concat_fusion.h"
#include "../kernels/fusion_gradients.h"
#include "../kernels/fusion_sums.h"

MMK_NAMESPACE_BEGIN

template <class T, int kRowWarps, int kColumnWarps, bool kWhole>
struct FusionTile {
  template <bool kNorm>
  using Forward = ConcatFusion<T, kRowWarps, kColumnWarps, kNorm, kWhole>;
  using SourceGradient = FusionSourceGradient<T, kRowWarps, kColumnWarps, kWhole>;
  template <bool kNorm>
  using WeightGradient = FusionWeightGradient<T, kRowWarps, kColumnWarps, kNorm, kWhole>;
};

template <class T, bool kWhole>
using WideFusion = FusionTile<T, 4, 2, kWhole>;
template <class T, bool kWhole>
using SmallFusion = FusionTile<T, 2, 1, kWhole>;

MMK_NAMESPACE_END
