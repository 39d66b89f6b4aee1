// The softmax state of a tile of query rows over some of its keys, and how a finished one leaves.
#pragma once

#include "../../core/softmax.h"
#include "chunks.h"

MMK_NAMESPACE_BEGIN

/// Per row its maximum, its sum and its unnormalised output: [value feature][row], or [row][feature] (few_rows.h).
struct State {
  float *acc, *row_max, *row_sum;

  /// `rows`: kRowStride for any tile, or one vector where all tiles are of few rows.
  static int64_t floats(int64_t dim_v, int64_t rows = kRowStride) { return (round_up(dim_v, kLanes) + 2) * rows; }
  static State in(float* memory, int64_t dim_v, int64_t rows = kRowStride) {
    float* row_max = memory + round_up(dim_v, kLanes) * rows;
    return {memory, row_max, row_max + rows};
  }
};

/// Writes lse, and leaves in `factor` what turns a row's accumulator into its output.
inline void normalise(const AttentionProblem& p, const RowTile& tile, const State& total, float* factor) {
  for (int r = 0; r < tile.padded; ++r) {
    const float sum = total.row_sum[r];
    factor[r] = sum == 0.0f ? 0.0f : 1.0f / sum;
    if (!p.lse || r >= tile.rows) continue;
    const Sequence& s = tile.sequence;
    p.lse[s.tensor_batch * p.lse_stride[0] + tile.head[r] * p.lse_stride[1] +
          (s.first_row + tile.query[r]) * p.lse_stride[2]] = sum == 0.0f ? -INFINITY : total.row_max[r] + std::log(sum);
  }
}

MMK_NAMESPACE_END
