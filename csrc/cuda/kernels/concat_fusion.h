// concat_fusion forward: out = residual + gate * act(z), z = norm(cat(sources)) W^T + constant.
//
// A block of threads has a tile of rows and outputs. The depth of its product walks from source to source in steps of 128
// bytes of features, read from the source's own rows and from its columns of the weight: the concatenation never exists.
// Plain rows are copied asynchronously; rows that a norm applies to are normalised in fp32 on their way, and rounded.
//
// The sums pass through shared memory, so that the epilogue has a warp for every row: it adds the rows of the shared
// sources, which have been multiplied before, once each, and keeps u = norm(x) W^T for the backward where it needs it;
// constant, activation, gate and residual follow, all in fp32, and one rounding.
#pragma once

#include "../tile/activate.h"
#include "../tile/fusion_call.h"
#include "../tile/normalised_rows.h"

MMK_NAMESPACE_BEGIN

/// kWhole: all that is multiplied has whole chunks of 16 bytes; without it a source may lack them.
template <class T_, int kRowWarps, int kColumnWarps, bool kNorm, bool kWhole>
struct ConcatFusion {
  using T = T_;
  using Call = FusionLaunch;
  using Product = BlockProduct<T, kRowWarps, kColumnWarps, false, false, 0>;
  using Left = typename Product::Left;
  using Right = typename Product::Right;
  static constexpr int kThreads = Product::kThreads, kSharedBytes = Product::kSharedBytes;
  static constexpr int kBlocks = kWhole ? Product::kBlocks : 1;
  static constexpr int kRows = Product::kRows, kColumns = Product::kColumns, kDepth = Product::kDepth;
  using OwnRows = OwnChunks<Left, kThreads>;

  const FusionLaunch& call;
  int64_t first_row, first_column;

  MMK_DEVICE explicit ConcatFusion(const FusionLaunch& c) : call(c) {}

  /// Where the walk over the sources is, and where this thread's rows of the present one stand.
  struct Walk {
    int source = -1;
    int64_t feature = 0;
    int64_t row[OwnRows::kCount];
    bool whole_rows, whole_weight;
  };

  /// Where row i of this thread stands in a source.
  MMK_DEVICE int64_t source_row(const FusionOperand& s, int i) const {
    const int64_t row = first_row + OwnRows::row(i);
    return row < call.space.rows ? row_offset(call.space, s.stride, row) : 0;
  }

  MMK_DEVICE void next_source(Walk& walk) const {
    do ++walk.source;
    while (call.sources[walk.source].multiplied || call.sources[walk.source].width == 0);
    walk.feature = 0;
    const FusionOperand& s = call.sources[walk.source];
#pragma unroll
    for (int i = 0; i < OwnRows::kCount; ++i) walk.row[i] = source_row(s, i);
    walk.whole_rows = kWhole || whole_chunks<T>(call.space, s.stride, s.data, s.width);
    walk.whole_weight = kWhole || whole_columns<T>(call.weight, call.weight_stride, s.first, s.width);
  }

  MMK_DEVICE void stage(Walk& walk, Left left, Right right) const {
    if (walk.source < 0 || walk.feature >= call.sources[walk.source].width) next_source(walk);
    const FusionOperand& s = call.sources[walk.source];
    const Global<const T> rows = global<T>(s.data);
    const int count = rows_left(call.space.rows, first_row, kRows);
    const auto row_at = [&](int i) { return source_row(s, i); };
    if constexpr (kNorm) {
      const Normaliser norm{call.mean, call.rstd, call.norm_weight ? call.norm_weight + s.first : nullptr};
      stage_normalised_rows<kThreads>(left, rows, row_at, first_row, count, walk.feature, s.width,
                                      kWhole || walk.whole_rows, norm);
    } else if (kWhole || walk.whole_rows) {
      const auto known_row = [&](int i) { return walk.row[i]; };
      stage_whole_rows<kThreads, true>(left, rows, known_row, count, walk.feature, s.width);
    } else {
      stage_any_rows<kThreads>(left, rows, row_at, count, walk.feature, s.width);
    }
    using OwnOutputs = OwnChunks<Right, kThreads>;
    const int64_t own_weight = (first_column + OwnOutputs::row(0)) * call.weight_stride;
    const auto weight_at = [&](int i) { return own_weight + i * OwnOutputs::kDown * call.weight_stride; };
    stage_rows<kThreads, true>(right, global<T>(call.weight) + s.first, weight_at,
                               rows_left(call.out, first_column, kColumns), walk.feature, s.width,
                               kWhole || walk.whole_weight);
    walk.feature += kDepth;
  }

  MMK_DEVICE void finish(const Product& product) const {
    const int rows = rows_left(call.space.rows, first_row, kRows);
    for (int r = warp_index(); r < rows; r += kThreads / 32) {
      const int64_t row = first_row + r;
      const int64_t result = row_offset(call.space, call.result.stride, row);
      const int64_t gate = call.gate.data ? row_offset(call.space, call.gate.stride, row) : 0;
      const int64_t residual = call.residual.data ? row_offset(call.space, call.residual.stride, row) : 0;
#pragma unroll 1
      for (int c = lane_index(); c < kColumns && first_column + c < call.out; c += 32) {
        const int64_t column = first_column + c;
        float u = load<float>(product.sum_at(r, c));
        for (int i = 0; i < call.num_sources; ++i) {
          const FusionOperand& s = call.sources[i];
          if (s.multiplied) u += load(global<float>(s.data) + (row_offset(call.space, s.stride, row) + column));
        }
        if (call.product) store(global<T>(call.product) + (row * call.out + column), narrow<T>(u));
        const float z = call.constant ? u + load(global<float>(call.constant) + column) : u;
        float y = activate(call.activation, z);
        if (call.gate.data) y *= read_number(call.gate.data, call.gate.dtype, gate + column * call.gate.column);
        if (call.residual.data)
          y += read_number(call.residual.data, call.residual.dtype, residual + column * call.residual.column);
        write_number(call.result.data, call.result.dtype, result + column, y);
      }
    }
  }

  MMK_DEVICE void run() {
    const int64_t block = block_index_x();
    first_row = block / call.column_tiles * kRows;
    first_column = block % call.column_tiles * kColumns;
    int steps = 0;
    for (int i = 0; i < call.num_sources; ++i) {
      if (!call.sources[i].multiplied) steps += static_cast<int>(ceil_div(call.sources[i].width, kDepth));
    }
    Product product{shared_memory()};
    Walk walk;
    product.run(steps, [&](Left left, Right right) { stage(walk, left, right); });
    finish(product);
  }
};

MMK_NAMESPACE_END
