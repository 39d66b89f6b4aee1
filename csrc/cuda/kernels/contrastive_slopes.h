// Slopes d loss / d x of the tiles of a band, for the products that make gradients of them (contrastive_gradient.h), and
// what is summed on the way: dx and dx * dot product, of which the gradients of bias and scale are made, and the losses of
// the sigmoid kind, which needs no statistics.
//
//   softmax:  dx = grad exp(x - maximum - log_sum) of the row + the same of the column - hits where positive - levels
//   sigmoid:  y = -x where positive, else x; loss = softplus(y) - smoothing / 2 y; dx = +-(sigmoid(y) - smoothing / 2) grad
//
// Dot products are computed again, with the bits of the forward (contrastive_tile.h). Slopes are multiplied by a power of
// two, range[0], before they are rounded: those of a mean over many fp16 pairs would be 0 without it.
#pragma once

#include "../../core/activation.h"
#include "../../core/softplus.h"
#include "../tile/softmax.h"
#include "contrastive_tile.h"

MMK_NAMESPACE_BEGIN

template <class Tile_, bool kSigmoid>
struct SlopesOfTile : Tile_ {
  using Base = Tile_;
  using T = typename Base::T;
  using Base::call, Base::at, Base::x, Base::inside, Base::row_of, Base::column_of, Base::memory;
  using Base::kColumns, Base::kLaneRows, Base::kRows, Base::kThreads;
  using Store = Tile<T, kRows, kColumns>;
  static constexpr int kColumnTiles = kColumns / 8, kSumBytes = 2 * 8 * (kThreads + 16);
  static constexpr int kSideNumbers = 5, kSideBytes = 4 * kSideNumbers * kColumns;
  static constexpr int kSharedBytes = Base::kRingBytes;
  static_assert(larger(larger(kSumBytes, kSideBytes), Store::kBytes) <= kSharedBytes,
                "they take the place of the ring");

  double with_dot, alone;

  MMK_DEVICE explicit SlopesOfTile(const ContrastiveCall& c) : Base(c), with_dot(0.0), alone(0.0) {}

  MMK_DEVICE void run() {
    Base::multiply();
    Base::find_positives();
    if constexpr (kSigmoid) {
      sigmoid_slopes();
    } else {
      softmax_slopes();
    }
    if (call.tile_sums != nullptr) share_sums();
    if (call.slopes != nullptr) store_slopes();
  }

  /// One direction's numbers of a row or column; outside, they make a slope that is not used.
  struct Side {
    float maximum, log_sum, grad, hit, level;
  };
  MMK_DEVICE Side side_at(const ContrastiveSide& side, int64_t i, bool exists) const {
    if (!exists) return {};
    return {number_at(side.maximum, i), number_at(side.log_sum, i), number_at(side.grad, i), number_at(side.hit, i),
            call.problem.levels ? number_at(side.level, i) : 0.0f};
  }

  /// The columns' numbers wait in shared memory: number i of two neighbours, from an even column on.
  struct alignas(8) Two {
    float x[2];
  };
  MMK_DEVICE Shared column_number(int i, int column) const { return memory + 4 * (i * kColumns + column); }
  MMK_DEVICE void stage_columns() const {
    for (int c = thread_index(); c < kColumns; c += kThreads) {
      const Side side = side_at(call.problem.column_side, Base::column_first + c, c < Base::columns);
      const float numbers[] = {side.maximum, side.log_sum, side.grad, side.hit, side.level};
#pragma unroll
      for (int i = 0; i < kSideNumbers; ++i) store(column_number(i, c), numbers[i]);
    }
    sync_block();
  }

  MMK_DEVICE void softmax_slopes() {
    const float scale = call_scale(call);
    const bool levels = call.problem.levels;
    Side row[kLaneRows];
    float row_with_dot[kLaneRows] = {}, row_alone[kLaneRows] = {};
    stage_columns();
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r)
      row[r] = side_at(call.problem.row_side, Base::row_first + row_of(r), row_of(r) < Base::rows);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      Two column[kSideNumbers];
#pragma unroll
      for (int i = 0; i < kSideNumbers; ++i) column[i] = load<Two>(column_number(i, column_of(n, 0)));
#pragma unroll
      for (int e = 0; e < 2; ++e) {
#pragma unroll
        for (int r = 0; r < kLaneRows; ++r) {
          const float dot = at(r, n, e), logit = dot * scale;
          const float by_row = exp2_approx(((logit - row[r].maximum) - row[r].log_sum) * kLog2E);
          const float by_column = exp2_approx(((logit - column[0].x[e]) - column[1].x[e]) * kLog2E);
          float dx = fused(by_row, row[r].grad, by_column * column[2].x[e]);
          if (Base::positive(r, n, e)) dx -= row[r].hit + column[3].x[e];
          if (levels) dx -= row[r].level + column[4].x[e];  // last: p - 1 of a confident pair is exact
          dx = inside(r, n, e) ? dx : 0.0f;
          row_with_dot[r] = fused(dx, dot, row_with_dot[r]);
          row_alone[r] += dx;
          at(r, n, e) = dx;
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      with_dot += row_with_dot[r];
      alone += row_alone[r];
    }
    sync_block();  // the columns' numbers have been read
  }

  MMK_DEVICE void sigmoid_slopes() {
    const ContrastiveProblem& p = call.problem;
    const float scale = call_scale(call), bias = call_bias(call), half = 0.5f * p.smoothing;
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      const int64_t row = Base::row_first + row_of(r);
      const bool wanted = p.row_side.grad != nullptr && row_of(r) < Base::rows;
      const float grad = wanted ? number_at(p.row_side.grad, row) : 0.0f;
      float loss = 0.0f, row_with_dot = 0.0f, row_alone = 0.0f;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float dot = at(r, n, e), logit = fused(dot, scale, bias);
          const bool positive = Base::positive(r, n, e), exists = inside(r, n, e);
          const float y = positive ? -logit : logit;
          if (p.row_loss != nullptr) {
            const float term = p.smoothing != 0.0f ? fused(y, -half, softplus(y)) : softplus(y);
            loss += exists ? term : 0.0f;
          }
          float dx = (sigmoid(y) - half) * grad;
          dx = positive ? -dx : dx;
          dx = exists ? dx : 0.0f;
          row_with_dot = fused(dx, dot, row_with_dot);
          row_alone += dx;
          at(r, n, e) = dx;
        }
      }
      with_dot += row_with_dot;
      alone += row_alone;
      if (p.row_loss == nullptr) continue;
      loss = quad_sum(loss);
      if (lane_index() % 4 == 0)
        store(global<float>(static_cast<void*>(call.row_partial)) +
                  (Base::column_tile * call.band_rows + Base::row_tile * kRows + row_of(r)),
              loss);
    }
  }

  /// The threads' sums, in order: sixteen of one warp take a sixteenth of them each.
  MMK_DEVICE void share_sums() const {
    constexpr int kParts = 16, kEach = kThreads / kParts;
    const auto own = [&](int thread, int which) { return memory + 8 * (2 * thread + which); };
    store(own(thread_index(), 0), with_dot);
    store(own(thread_index(), 1), alone);
    sync_block();
    if (warp_index() == 0) {
      const int part = lane_index() / 2, which = lane_index() % 2;
      double sum = 0.0;
      for (int i = 0; i < kEach; ++i) sum += load<double>(own(part * kEach + i, which));
      store(own(kThreads + part, which), sum);
      sync_warp();
      if (part == 0) {
        double whole = 0.0;
        for (int i = 0; i < kParts; ++i) whole += load<double>(own(kThreads + i, which));
        store_double(call.tile_sums, 2 * (call.tiles_before + block_index_x()) + which, whole);
      }
    }
    sync_block();
  }

  /// Through shared memory, so that they leave in pieces of 16 bytes.
  MMK_DEVICE void store_slopes() {
    const Store tile{memory};
    const float factor = call.range == nullptr ? 1.0f : number_at(call.range, 0);
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const float pair[2] = {at(r, n, 0) * factor, at(r, n, 1) * factor};
        const Shared to = tile.element(row_of(r), column_of(n, 0));
        if constexpr (sizeof(T) == 2) {
          store(to, pack<T>(pair[0], pair[1]));
        } else {
          store(to, Words<2>{{bits_as<uint32_t>(pair[0]), bits_as<uint32_t>(pair[1])}});
        }
      }
    }
    sync_block();
    const Global<T> slopes = global<T>(call.slopes) +
                             (static_cast<int64_t>(Base::row_tile) * kRows * call.columns_padded + Base::column_first);
#pragma unroll 4
    for (int i = thread_index(); i < kRows * Store::kChunks; i += kThreads) {
      const int row = i / Store::kChunks, chunk = i % Store::kChunks;
      store16(slopes + (row * call.columns_padded + chunk * Store::kChunkElements),
              load<Words<4>>(tile.at(row, chunk)));
    }
  }
};

/// The losses of the rows of a band, from those of its tiles.
struct MergeContrastiveLosses {
  static constexpr int kThreads = 256, kSharedBytes = 0;

  const ContrastiveCall& call;

  MMK_DEVICE explicit MergeContrastiveLosses(const ContrastiveCall& c) : call(c) {}

  static int64_t blocks(const ContrastiveCall& call) { return ceil_div(call.band_rows, kThreads); }

  MMK_DEVICE void run() const {
    const int64_t i = static_cast<int64_t>(block_index_x()) * kThreads + thread_index();
    if (i >= call.band_rows || call.band_first + i >= call.problem.rows) return;
    double sum = 0.0;
    for (int tile = 0; tile < call.column_tiles; ++tile)
      sum += number_at(call.row_partial, static_cast<int64_t>(tile) * call.band_rows + i);
    store(global<float>(static_cast<void*>(call.problem.row_loss)) + (call.band_first + i), static_cast<float>(sum));
  }
};

/// The sums of all tiles, in one block of threads: each a chain over every kThreads-th tile, then these in order.
struct MergeContrastiveSums {
  static constexpr int kThreads = 256, kSharedBytes = 2 * 8 * kThreads;

  const ContrastiveCall& call;

  MMK_DEVICE explicit MergeContrastiveSums(const ContrastiveCall& c) : call(c) {}

  static int64_t blocks(const ContrastiveCall&) { return 1; }

  MMK_DEVICE void run() const {
    const Shared memory = shared_memory();
    const Global<const double> sums = global<double>(static_cast<const void*>(call.tile_sums));
    for (int which = 0; which < 2; ++which) {
      double sum = 0.0;
      for (int64_t tile = thread_index(); tile < call.tiles_before; tile += kThreads)
        sum += load(sums + (2 * tile + which));
      store(memory + 8 * (2 * thread_index() + which), sum);
    }
    sync_block();
    if (thread_index() >= 2) return;
    double sum = 0.0;
    for (int i = 0; i < kThreads; ++i) sum += load<double>(memory + 8 * (2 * i + thread_index()));
    store_double(call.problem.sums, thread_index(), sum);
  }
};

/// The power of two that brings the largest of the numbers that slopes are made of to [1, 2), or, of fp16 ones, to
/// [2^12, 2^13), six of which still fit. 1 where there is none, or one is not finite. One block of threads.
template <class T>
struct FindContrastiveRange {
  static constexpr int kThreads = 1024, kWarps = kThreads / 32, kSharedBytes = 4 * kWarps;
  static constexpr uint32_t kTop = std::is_same<T, Half>::value ? 12 : 0;

  const ContrastiveCall& call;

  MMK_DEVICE explicit FindContrastiveRange(const ContrastiveCall& c) : call(c) {}

  static int64_t blocks(const ContrastiveCall&) { return 1; }

  MMK_DEVICE void run() const {
    const ContrastiveProblem& p = call.problem;
    float top = 0.0f;
    const auto look = [&](const float* numbers, int64_t count) {
      if (numbers == nullptr) return;
      for (int64_t i = thread_index(); i < count; i += kThreads) top = maximum(top, std::fabs(number_at(numbers, i)));
    };
    for (const float* numbers : {p.row_side.grad, p.row_side.hit, p.row_side.level}) look(numbers, p.rows);
    for (const float* numbers : {p.column_side.grad, p.column_side.hit, p.column_side.level}) look(numbers, p.columns);
    const Shared memory = shared_memory();
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) top = maximum(top, shuffle_xor(top, mask));
    if (lane_index() == 0) store(memory + 4 * warp_index(), top);
    sync_block();
    if (thread_index() != 0) return;
    for (int warp = 0; warp < kWarps; ++warp) top = maximum(top, load<float>(memory + 4 * warp));
    const uint32_t exponent = bits_as<uint32_t>(top) >> 23;
    const bool usual = exponent > 0 && exponent < 255;
    const uint32_t factor = usual ? smaller(larger(254 + kTop - exponent, 1u), 253u) : 127u;
    store(global<uint32_t>(static_cast<void*>(call.range)), factor << 23);
    store(global<uint32_t>(static_cast<void*>(call.range)) + 1, (254 - factor) << 23);
  }
};

MMK_NAMESPACE_END
