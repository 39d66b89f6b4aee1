// The products of concat_fusion's backward. Per source s, with P the rows of dz, or their sums over the rows that share one
// of the source's own:
//
//     dx_s = (P W_s) g_s - slope (x_s - mean) - level       the depth walks over the outputs
//     Q_s  = dz^T normalised(x_s),  dW_s = Q_s g_s + dbias (outer) b_s,  dg_s = sum_out W_s Q_s
//                                                           the depth walks over the rows, in chunks of kChunkRows
//
// The weight, dz and the sources lie across the depth where it walks over their rows: their fragments are transposed
// while they are loaded, and no transposed copy is made.
#pragma once

#include "../tile/fusion_call.h"
#include "../tile/normalised_rows.h"

MMK_NAMESPACE_BEGIN

struct SourceGradientCall {
  RowSpace space;  // of the source's own rows
  RowView slopes;  // P
  int64_t out = 0;
  const void* weight = nullptr;  // of the source's first feature
  int64_t weight_stride = 0, width = 0;
  RowView x, grad;
  const float* norm_weight = nullptr;  // of the source's first feature
  const float* rstd = nullptr;         // what P is still to be multiplied by; nullptr: nothing
  const float *slope = nullptr, *level = nullptr, *mean = nullptr;  // nullptr: without a norm, without a LayerNorm
  int column_tiles = 1;
};

template <class T_, int kRowWarps, int kColumnWarps, bool kWhole>
struct FusionSourceGradient {
  using T = T_;
  using Call = SourceGradientCall;
  using Product = BlockProduct<T, kRowWarps, kColumnWarps, false, true, 0>;
  using Left = typename Product::Left;
  using Right = typename Product::Right;
  static constexpr int kThreads = Product::kThreads, kSharedBytes = Product::kSharedBytes;
  static constexpr int kBlocks = kWhole ? Product::kBlocks : 1;
  static constexpr int kRows = Product::kRows, kColumns = Product::kColumns;
  using OwnRows = OwnChunks<Left, kThreads>;

  const SourceGradientCall& call;

  MMK_DEVICE explicit FusionSourceGradient(const SourceGradientCall& c) : call(c) {}

  MMK_DEVICE void run() const {
    const int64_t block = block_index_x();
    const int64_t first_row = block / call.column_tiles * kRows;
    const int first_column = static_cast<int>(block % call.column_tiles * kColumns);
    const Global<const T> slopes = global<T>(static_cast<const void*>(call.slopes.data));
    const Global<const T> weight = global<T>(call.weight);
    const bool whole_slopes = kWhole || whole_chunks<T>(call.space, call.slopes.stride, call.slopes.data, call.out);
    const bool whole_weight = kWhole || whole_columns<T>(call.weight, call.weight_stride, 0, call.width);
    const auto row_at = [&](int i) {
      const int64_t own = first_row + OwnRows::row(i);
      return own < call.space.rows ? row_offset(call.space, call.slopes.stride, own) : 0;
    };
    const int count = rows_left(call.space.rows, first_row, kRows);
    int64_t rows[OwnRows::kCount];  // the same in every step
#pragma unroll
    for (int i = 0; i < OwnRows::kCount; ++i) rows[i] = row_at(i);
    const auto known_row = [&](int i) { return rows[i]; };
    Product product{shared_memory()};
    int output = 0;
    product.run(static_cast<int>(ceil_div(call.out, Product::kDepth)), [&](Left left, Right right) {
      if (whole_slopes) {
        stage_whole_rows<kThreads, true>(left, slopes, known_row, count, output, call.out);
      } else {
        stage_any_rows<kThreads>(left, slopes, row_at, count, output, call.out);
      }
      using OwnOutputs = OwnChunks<Right, kThreads>;
      const auto weight_at = [&](int i) { return (output + OwnOutputs::row(i)) * call.weight_stride; };
      stage_rows<kThreads, true>(right, weight, weight_at, rows_left(call.out, output, Product::kDepth), first_column,
                                 call.width, whole_weight);
      output += Product::kDepth;
    });
    finish(product, first_row, first_column);
  }

  MMK_DEVICE void finish(const Product& product, int64_t first_row, int64_t first_column) const {
    const int rows = rows_left(call.space.rows, first_row, kRows);
    const auto of_row = [](const float* vector, int64_t row, float absent) {
      return vector ? load(global<float>(vector) + row) : absent;
    };
    for (int r = warp_index(); r < rows; r += kThreads / 32) {
      const int64_t row = first_row + r;
      const int64_t x_at = row_offset(call.space, call.x.stride, row);
      const int64_t grad_at = row_offset(call.space, call.grad.stride, row);
      const float rstd = of_row(call.rstd, row, 1.0f), mean = of_row(call.mean, row, 0.0f);
      const float slope = of_row(call.slope, row, 0.0f), level = of_row(call.level, row, 0.0f);
#pragma unroll 1
      for (int c = lane_index(); c < kColumns && first_column + c < call.width; c += 32) {
        const int64_t column = first_column + c;
        float dx = load<float>(product.sum_at(r, c)) * rstd;
        if (call.norm_weight) dx *= load(global<float>(call.norm_weight) + column);
        if (call.slope) {
          const float x = widen(load(global<T>(static_cast<const void*>(call.x.data)) + (x_at + column)));
          dx = dx - slope * (x - mean) - level;
        }
        store(global<T>(call.grad.data) + (grad_at + column), narrow<T>(dx));
      }
    }
  }
};

struct WeightGradientCall {
  RowSpace space;  // of the rows that are summed over
  RowView slopes, x;
  int64_t out = 0, width = 0;
  const float *mean = nullptr, *rstd = nullptr;
  // of the source's first feature, the total width apart from output to output:
  const void* weight = nullptr;
  void* grad_weight = nullptr;
  float* norm_weight_parts = nullptr;  // (groups of outputs, total width)
  int64_t weight_stride = 0, total_width = 0;
  const float *norm_weight = nullptr, *norm_bias = nullptr, *sums = nullptr;  // sums: dz over all rows
  int column_tiles = 1;
};

template <class T_, int kRowWarps, int kColumnWarps, bool kNorm, bool kWhole>
struct FusionWeightGradient {
  using T = T_;
  using Call = WeightGradientCall;
  static constexpr int kChunkRows = 1024;
  using Product = BlockProduct<T, kRowWarps, kColumnWarps, true, true, kChunkRows* static_cast<int>(sizeof(T)) / 128>;
  using Left = typename Product::Left;
  using Right = typename Product::Right;
  static constexpr int kThreads = Product::kThreads, kSharedBytes = Product::kSharedBytes;
  static constexpr int kBlocks = kWhole ? Product::kBlocks : 1;
  static constexpr int kRows = Product::kRows, kColumns = Product::kColumns;
  /// Outputs whose share of the norm weight's gradient is added up in one chain.
  static constexpr int kGroup = 64;
  static_assert(kRows % kGroup == 0, "whole groups");

  const WeightGradientCall& call;

  MMK_DEVICE explicit FusionWeightGradient(const WeightGradientCall& c) : call(c) {}

  MMK_DEVICE void run() const {
    const int64_t block = block_index_x();
    const int64_t first_output = block / call.column_tiles * kRows, first_column = block % call.column_tiles * kColumns;
    const Global<const T> slopes = global<T>(static_cast<const void*>(call.slopes.data));
    const Global<const T> x = global<T>(static_cast<const void*>(call.x.data));
    const bool whole_slopes = kWhole || whole_chunks<T>(call.space, call.slopes.stride, call.slopes.data, call.out);
    const bool whole_x = kWhole || whole_chunks<T>(call.space, call.x.stride, call.x.data, call.width);
    Product product{shared_memory()};
    int64_t row = 0;
    product.run(static_cast<int>(ceil_div(call.space.rows, Product::kDepth)), [&](Left left, Right right) {
      const int count = rows_left(call.space.rows, row, Product::kDepth);
      const auto slope_at = [&](int i) {
        return row_offset(call.space, call.slopes.stride, row + OwnChunks<Left, kThreads>::row(i));
      };
      const auto x_at = [&](int i) {
        return row_offset(call.space, call.x.stride, row + OwnChunks<Right, kThreads>::row(i));
      };
      stage_rows<kThreads, false>(left, slopes, slope_at, count, first_output, call.out, whole_slopes);
      if constexpr (kNorm) {
        const Normaliser norm{call.mean, call.rstd, nullptr};
        stage_normalised_rows<kThreads>(right, x, x_at, row, count, first_column, call.width, whole_x, norm);
      } else {
        stage_rows<kThreads, false>(right, x, x_at, count, first_column, call.width, whole_x);
      }
      row += Product::kDepth;
    });
    if (call.norm_weight_parts) sum_groups(product, first_output, first_column);
    if (call.grad_weight) finish(product, first_output, first_column);
  }

  MMK_DEVICE void sum_groups(const Product& product, int64_t first_output, int64_t first_column) const {
    for (int i = thread_index(); i < kColumns * (kRows / kGroup); i += kThreads) {
      const int group = i / kColumns * kGroup, c = i % kColumns;
      const int64_t column = first_column + c, first = first_output + group;
      const int outputs = rows_left(call.out, first, kGroup);
      if (column >= call.width || outputs == 0) continue;
      float sum = 0.0f;
      for (int n = 0; n < outputs; ++n) {
        const float w = widen(load(global<T>(call.weight) + ((first + n) * call.weight_stride + column)));
        sum = fused(w, load<float>(product.sum_at(group + n, c)), sum);
      }
      store(global<float>(static_cast<void*>(call.norm_weight_parts)) + (first / kGroup * call.total_width + column),
            sum);
    }
  }

  MMK_DEVICE void finish(const Product& product, int64_t first_output, int64_t first_column) const {
    const int outputs = rows_left(call.out, first_output, kRows);
    for (int r = warp_index(); r < outputs; r += kThreads / 32) {
      const int64_t n = first_output + r;
      const float total = call.norm_bias ? load(global<float>(call.sums) + n) : 0.0f;
#pragma unroll 1
      for (int c = lane_index(); c < kColumns && first_column + c < call.width; c += 32) {
        const int64_t column = first_column + c;
        float q = load<float>(product.sum_at(r, c));
        if (call.norm_weight) q *= load(global<float>(call.norm_weight) + column);
        if (call.norm_bias) q = fused(total, load(global<float>(call.norm_bias) + column), q);
        store(global<T>(call.grad_weight) + (n * call.total_width + column), narrow<T>(q));
      }
    }
  }
};

MMK_NAMESPACE_END
