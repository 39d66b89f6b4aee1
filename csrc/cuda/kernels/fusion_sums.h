// Sums of concat_fusion's backward over the rows that share a row of a broadcast operand: chains over kChunk rows, added in
// order by a second launch. The order is the same on every device and at any grid.
#pragma once

#include "fusion_rows.h"

MMK_NAMESPACE_BEGIN

constexpr int kSumRows = 256;

struct SumCall {
  RowSpace space;
  int64_t own[kMaxRowAxes] = {};  // of a row of the space, as in Source: 0 along the axes that are summed over
  int64_t own_rows = 1, sharing = 0, chunks = 0, width = 0;
  RowView rows;                   // what is summed, times `factor` of the row
  const float* factor = nullptr;  // nullptr: 1
  // the gradient of a gate: rows are grad_out, and count times act(z)
  const void* product = nullptr;
  const float* constant = nullptr;
  Activation activation = Activation::kNone;
  float* parts = nullptr;  // (own_rows, chunks, width)
};

/// The rows of a space that share own row q, in order.
struct SharingRows {
  const RowSpace& space;
  const int64_t (&own)[kMaxRowAxes];
  int64_t first = 0;

  MMK_DEVICE SharingRows(const RowSpace& s, const int64_t (&o)[kMaxRowAxes], int64_t q) : space(s), own(o) {
    int64_t step = 1;
    uint32_t rest = static_cast<uint32_t>(q);
    for (int axis = space.axes - 1; axis >= 0; --axis) {
      if (own[axis] != 0) {
        first += rest % space.size[axis] * step;
        rest /= space.size[axis];
      }
      step *= space.size[axis];
    }
  }
  MMK_DEVICE int64_t row(int64_t i) const {
    int64_t row = first, step = 1;
    uint32_t rest = static_cast<uint32_t>(i);
    for (int axis = space.axes - 1; axis >= 0; --axis) {
      if (own[axis] == 0) {
        row += rest % space.size[axis] * step;
        rest /= space.size[axis];
      }
      step *= space.size[axis];
    }
    return row;
  }
};

/// parts[q][chunk][n]: a block has 128 columns of one chunk.
template <class T>
struct FusionSums {
  using Call = SumCall;
  static constexpr int kThreads = 128, kSharedBytes = 0, kBlocks = 1;
  const SumCall& call;

  MMK_DEVICE explicit FusionSums(const SumCall& c) : call(c) {}

  MMK_DEVICE void run() const {
    const int64_t blocks = ceil_div(call.width, kThreads), block = block_index_x();
    const int64_t column = block % blocks * kThreads + thread_index(), part = block / blocks;
    if (column >= call.width) return;
    const int64_t start = part % call.chunks * kSumRows, stop = smaller(start + kSumRows, call.sharing);
    const SharingRows sharing(call.space, call.own, part / call.chunks);
    float sum = 0.0f;
    for (int64_t i = start; i < stop; ++i) {
      const int64_t row = sharing.row(i);
      const int64_t at = row_offset(call.space, call.rows.stride, row) + column;
      float x = read_number(call.rows.data, call.rows.dtype, at);
      if (call.product)
        x *= activate(call.activation, pre_activation<T>(call.product, call.constant, row, call.width, column));
      sum = fused(x, call.factor ? load(global<float>(call.factor) + row) : 1.0f, sum);
    }
    store(global<float>(static_cast<void*>(call.parts)) + (part * call.width + column), sum);
  }
};

struct JoinCall {
  const float* parts = nullptr;
  int64_t rows = 0, chunks = 0, width = 0;
  void* to = nullptr;  // dense (rows, width)
  DType dtype = DType::kFloat32;
};

/// to[q][n]: the parts of its chunks, in order.
struct FusionJoin {
  using Call = JoinCall;
  static constexpr int kThreads = 128, kSharedBytes = 0, kBlocks = 1;
  const JoinCall& call;

  MMK_DEVICE explicit FusionJoin(const JoinCall& c) : call(c) {}

  MMK_DEVICE void run() const {
    const int64_t i = int64_t{block_index_x()} * kThreads + thread_index();
    if (i >= call.rows * call.width) return;
    const int64_t q = i / call.width, n = i % call.width;
    const Global<const float> parts =
        global<float>(static_cast<const void*>(call.parts)) + (q * call.chunks * call.width + n);
    float sum = load(parts);
    for (int64_t chunk = 1; chunk < call.chunks; ++chunk) sum += load(parts + chunk * call.width);
    write_number(call.to, call.dtype, i, sum);
  }
};

struct SharedSlopeCall {
  RowSpace space;
  int64_t own[kMaxRowAxes] = {};
  int64_t own_rows = 0, sharing = 0;
  const float *slope = nullptr, *level = nullptr, *mean = nullptr;  // of rows; level and mean: nullptr without
  float *own_slope = nullptr, *own_level = nullptr, *own_mean = nullptr;
};

/// What a norm's backward subtracts from an own row of a shared source, summed over the rows that share it:
/// slope (x - own_mean) + level, for any own_mean near those of the rows: that of the first.
struct FusionSharedSlopes : RowWarps {
  using Call = SharedSlopeCall;
  const SharedSlopeCall& call;

  MMK_DEVICE explicit FusionSharedSlopes(const SharedSlopeCall& c) : call(c) {}

  MMK_DEVICE void run() const {
    const int64_t q = row();
    if (q >= call.own_rows) return;
    const SharingRows sharing(call.space, call.own, q);
    const float centre = call.mean ? load(global<float>(call.mean) + sharing.row(0)) : 0.0f;
    float slopes = 0.0f, levels = 0.0f;
    for (int64_t i = lane_index(); i < call.sharing; i += 32) {
      const int64_t row = sharing.row(i);
      const float slope = load(global<float>(call.slope) + row);
      slopes += slope;
      if (!call.mean) continue;
      levels += fused(slope, centre - load(global<float>(call.mean) + row), load(global<float>(call.level) + row));
    }
    slopes = warp_sum(slopes);
    levels = warp_sum(levels);
    if (lane_index() != 0) return;
    store(global<float>(static_cast<void*>(call.own_slope)) + q, slopes);
    if (!call.mean) return;
    store(global<float>(static_cast<void*>(call.own_level)) + q, levels);
    store(global<float>(static_cast<void*>(call.own_mean)) + q, centre);
  }
};

MMK_NAMESPACE_END
