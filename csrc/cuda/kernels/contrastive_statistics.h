// Statistics of the rows and the columns of x = scale image text^T, for the softmax kind: maximum, log of the sum of
// exp(x - maximum), sum over the positives, sum over all.
//
// Both directions come from one tile of products (contrastive_tile.h): a row is shared by the four lanes of a quad, a
// column by the eight lanes of a row group and by the warps. A logit takes two exponentials, one against its row's maximum
// in the tile and one against its column's. What a tile finds goes to device memory, and MergeContrastiveStatistics puts
// the tiles together, in order: online softmax (Milakov and Gimelshein, 2018).
#pragma once

#include "../tile/softmax.h"
#include "contrastive_tile.h"

MMK_NAMESPACE_BEGIN

/// Over the lanes that share a column.
MMK_DEVICE float column_maximum(float x) {
#pragma unroll
  for (int mask = 4; mask < 32; mask *= 2) x = maximum(x, shuffle_xor(x, mask));
  return x;
}
MMK_DEVICE float column_sum(float x) {
#pragma unroll
  for (int mask = 4; mask < 32; mask *= 2) x += shuffle_xor(x, mask);
  return x;
}

template <class Tile_>
struct StatisticsOfTile : Tile_ {
  using Base = Tile_;
  using Base::call, Base::at, Base::x, Base::inside, Base::row_of, Base::column_of, Base::memory;
  using Base::kColumns, Base::kLaneRows, Base::kWarps, Base::kThreads;
  static constexpr int kColumnTiles = kColumns / 8;
  static constexpr int kPartBytes = 4 * kWarps * kStatisticNumbers * kColumns;
  static constexpr int kSharedBytes = Base::kRingBytes;
  static_assert(kPartBytes <= kSharedBytes, "the warps' columns take the place of the ring");

  bool totals, hits;  // what is summed; hits: the warp has a positive

  MMK_DEVICE explicit StatisticsOfTile(const ContrastiveCall& c) : Base(c) {}

  MMK_DEVICE void run() {
    totals = call.problem.row.total != nullptr;
    Base::multiply();
    finish_logits();
    hits = Base::find_positives();
    row_statistics();
    column_statistics();
  }

  /// Scales, and makes -inf of what is no logit.
  MMK_DEVICE void finish_logits() {
    const float scale = call_scale(call);
    const bool ragged = Base::rows < Base::kRows || Base::columns < kColumns;
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r)
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float logit = at(r, n, e) * scale;
          at(r, n, e) = ragged && !inside(r, n, e) ? -INFINITY : logit;
        }
  }

  MMK_DEVICE void row_statistics() {
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      float top = -INFINITY, sum = 0.0f, hit = 0.0f, total = 0.0f;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) top = maximum(top, at(r, n, e));
      top = quad_maximum(top);
      const float shift = safe_shift(top);
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) sum += exp2_approx((at(r, n, e) - shift) * kLog2E);
      if (hits) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) hit += Base::positive(r, n, e) ? at(r, n, e) : 0.0f;
      }
      if (totals) {  // of a row that is outside nothing is read
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) total += column_of(n, e) < Base::columns ? at(r, n, e) : 0.0f;
      }
      sum = quad_sum(sum);
      if (hits) hit = quad_sum(hit);
      if (totals) total = quad_sum(total);
      if (lane_index() % 4 != 0) continue;
      const float numbers[] = {top, sum, hit, total};
#pragma unroll
      for (int i = 0; i < kStatisticNumbers; ++i)
        store(global<float>(static_cast<void*>(call.row_partial)) +
                  ((static_cast<int64_t>(Base::column_tile) * kStatisticNumbers + i) * call.band_rows +
                   Base::row_tile * Base::kRows + row_of(r)),
              numbers[i]);
    }
  }

  MMK_DEVICE Shared part(int warp, int number, int column) const {
    return memory + 4 * ((warp * kStatisticNumbers + number) * kColumns + column);
  }

  MMK_DEVICE void column_statistics() {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float top = -INFINITY, sum = 0.0f, hit = 0.0f, total = 0.0f;
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) top = maximum(top, at(r, n, e));
        top = column_maximum(top);
        const float shift = safe_shift(top);
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) sum += exp2_approx((at(r, n, e) - shift) * kLog2E);
        if (hits) {
#pragma unroll
          for (int r = 0; r < kLaneRows; ++r) hit += Base::positive(r, n, e) ? at(r, n, e) : 0.0f;
        }
        if (totals) {
#pragma unroll
          for (int r = 0; r < kLaneRows; ++r) total += inside(r, n, e) ? at(r, n, e) : 0.0f;
        }
        sum = column_sum(sum);
        if (hits) hit = column_sum(hit);
        if (totals) total = column_sum(total);
        if (lane_index() >= 4) continue;
        const float numbers[] = {top, sum, hit, total};
#pragma unroll
        for (int i = 0; i < kStatisticNumbers; ++i) store(part(warp_index(), i, column_of(n, e)), numbers[i]);
      }
    }
    sync_block();
    for (int column = thread_index(); column < kColumns; column += kThreads) merge_warps(column);
  }

  /// The warps' parts of a column, in order.
  MMK_DEVICE void merge_warps(int column) const {
    float top = -INFINITY, sum = 0.0f, hit = 0.0f, total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) top = maximum(top, load<float>(part(warp, 0, column)));
    const float shift = safe_shift(top);
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      sum = fused(load<float>(part(warp, 1, column)),
                  exp2_approx((load<float>(part(warp, 0, column)) - shift) * kLog2E), sum);
      hit += load<float>(part(warp, 2, column));
      total += load<float>(part(warp, 3, column));
    }
    const float numbers[] = {top, sum, hit, total};
#pragma unroll
    for (int i = 0; i < kStatisticNumbers; ++i)
      store(global<float>(static_cast<void*>(call.column_partial)) +
                ((static_cast<int64_t>(Base::row_tile) * kStatisticNumbers + i) * call.columns_padded +
                 Base::column_first + column),
            numbers[i]);
  }
};

/// Puts the tiles' statistics of a band together, a thread for each row of the band and for each column. The columns'
/// rest where they will be between bands, the sum in the place of its logarithm.
struct MergeContrastiveStatistics {
  static constexpr int kThreads = 256, kSharedBytes = 0;

  const ContrastiveCall& call;

  MMK_DEVICE explicit MergeContrastiveStatistics(const ContrastiveCall& c) : call(c) {}

  static int64_t blocks(const ContrastiveCall& call) {
    return ceil_div(call.band_rows + call.columns_padded, kThreads);
  }

  MMK_DEVICE void run() const {
    const ContrastiveProblem& p = call.problem;
    const int64_t i = static_cast<int64_t>(block_index_x()) * kThreads + thread_index();
    if (i < call.band_rows) {
      if (call.band_first + i < p.rows)
        merge(call.row_partial + i, call.column_tiles, call.band_rows, p.row, call.band_first + i, true, true);
    } else if (i - call.band_rows < p.columns) {
      const int64_t column = i - call.band_rows;
      merge(call.column_partial + column, call.row_tiles, call.columns_padded, p.column, column, call.first_band,
            call.last_band);
    }
  }

  MMK_DEVICE static Global<float> written(float* numbers, int64_t i) {
    return global<float>(static_cast<void*>(numbers)) + i;
  }

  MMK_DEVICE void merge(float* partial, int tiles, int64_t length, const ContrastiveStatistics& to, int64_t index,
                        bool first, bool last) const {
    float top = -INFINITY, sum = 0.0f;
    double hit = 0.0, total = 0.0;
    if (!first) {
      top = load_written(written(to.maximum, index));
      sum = load_written(written(to.log_sum, index));
      hit = load_written(written(to.hit, index));
      if (to.total != nullptr) total = load_written(written(to.total, index));
    }
#pragma unroll 2
    for (int tile = 0; tile < tiles; ++tile) {
      const Global<float> from = written(partial, tile * kStatisticNumbers * length);
      const Merge<float> m = merge_factors(top, load_written(from));
      sum = merged(m, sum, load_written(from + length));
      top = m.row_max;
      hit += load_written(from + 2 * length);
      if (to.total != nullptr) total += load_written(from + 3 * length);
    }
    store(written(to.maximum, index), top);
    store(written(to.log_sum, index), last ? std::log(sum) : sum);
    store(written(to.hit, index), static_cast<float>(hit));
    if (to.total != nullptr) store(written(to.total, index), static_cast<float>(total));
  }
};

MMK_NAMESPACE_END
