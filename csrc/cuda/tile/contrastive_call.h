// One launch of a contrastive_loss kernel, as it travels in the kernel's parameters.
//
// The rows are worked off in bands, one after another, so that what lies between two kernels has a bounded size: partial
// statistics of the tiles of a band, or the slopes d loss / d x of one.
#pragma once

#include <ptx/memory.h>

#include "../../core/contrastive_problem.h"

namespace mmkernels {

struct ContrastiveCall {
  ContrastiveProblem problem;                     // its scale and bias are not read:
  const float *scale = nullptr, *bias = nullptr;  // in device memory; bias nullptr: none

  int64_t band_first = 0, band_rows = 0;  // the band, and its rows, a multiple of a tile's
  int64_t columns_padded = 0;             // a multiple of a tile's
  int row_tiles = 0, column_tiles = 0;    // of the band
  bool first_band = true, last_band = true;

  float* row_partial = nullptr;     // [column tile][number][band_rows]: statistics, or one number, losses
  float* column_partial = nullptr;  // [row tile][number][columns_padded]

  void* slopes = nullptr;  // [band_rows][columns_padded], in the operands' type, times range[0]; nullptr: not wanted
  float* range = nullptr;  // a power of two and its inverse; nullptr: 1
  double* tile_sums = nullptr;  // [tile of all bands][2]
  int64_t tiles_before = 0;     // of the bands before this one; in the last kernel, all of them
  float* carry = nullptr;       // the text's gradient between bands, dense
};

/// Numbers of a statistic, in the order of the partial ones.
constexpr int kStatisticNumbers = 4;

}  // namespace mmkernels

MMK_NAMESPACE_BEGIN

MMK_DEVICE float call_scale(const ContrastiveCall& call) {
  return load(global<float>(static_cast<const void*>(call.scale)));
}
MMK_DEVICE float call_bias(const ContrastiveCall& call) {
  return call.bias == nullptr ? 0.0f : load(global<float>(static_cast<const void*>(call.bias)));
}

/// Number i of a vector in device memory that this kernel does not write.
MMK_DEVICE float number_at(const float* numbers, int64_t i) {
  return load(global<float>(static_cast<const void*>(numbers)) + i);
}

/// fp64 in two halves: a store has at most 4 bytes.
MMK_DEVICE void store_double(double* numbers, int64_t i, double x) {
  const uint64_t bits = bits_as<uint64_t>(x);
  const Global<uint32_t> to = global<uint32_t>(static_cast<void*>(numbers)) + 2 * i;
  store(to, static_cast<uint32_t>(bits));
  store(to + 1, static_cast<uint32_t>(bits >> 32));
}

/// The only positive of a row that has no more; outside the columns where it has none.
MMK_DEVICE int64_t target_of(const ContrastivePositives& positives, int64_t row) {
  if (positives.index == nullptr) return row;
  return load(global<int64_t>(static_cast<const void*>(positives.index)) + row * positives.index_stride);
}
MMK_DEVICE bool positive_at(const ContrastivePositives& positives, int64_t row, int64_t column) {
  return load(global<uint8_t>(static_cast<const void*>(positives.matrix)) +
              (row * positives.row_stride + column * positives.column_stride)) != 0;
}

MMK_NAMESPACE_END
