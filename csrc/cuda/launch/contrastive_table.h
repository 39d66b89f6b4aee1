// The one table of contrastive_loss kernels. The launch code, the emulator and the documentation read it.
#pragma once

#include "../kernels/contrastive_gradient.h"
#include "../kernels/contrastive_slopes.h"
#include "../kernels/contrastive_statistics.h"
#include "type_of.h"

MMK_NAMESPACE_BEGIN

/// Tiles of 128 x 128 on the tensor cores, of 64 x 64 in exact fp32.
template <class T_>
struct ContrastiveKernels {
  using T = T_;
  static constexpr int kRowTiles = sizeof(T) == 2 ? 2 : 1, kColumns = sizeof(T) == 2 ? 128 : 64;
  static constexpr int kSlice = 32, kStages = sizeof(T) == 2 ? 3 : 2;

  using Products = ContrastiveTile<T, kRowTiles, kColumns, kSlice, kStages>;
  using Statistics = StatisticsOfTile<Products>;
  template <bool kSigmoid>
  using Slopes = SlopesOfTile<Products, kSigmoid>;
  using GradImage = ContrastiveGradientTile<T, kRowTiles, kColumns, kSlice, kStages, false>;
  using GradText = ContrastiveGradientTile<T, kRowTiles, kColumns, kSlice, kStages, true>;
};

MMK_NAMESPACE_END
