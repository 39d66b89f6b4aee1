// Gradients of image and text from the slopes of a band (contrastive_slopes.h):
//
//   image[band] = scale dx text            text (+)= scale dx^T image[band]
//
// A block of threads has kRows rows of a gradient by kColumns features and walks over the depth (text's rows, or the
// band's) in slices of kSlice through a ring in shared memory. dx^T is dx read along its columns: ldmatrix transposes.
// The text's gradient rests in fp32 between bands, each number where its own thread put it.
#pragma once

#include "../tile/accumulate.h"
#include "../tile/contrastive_call.h"

MMK_NAMESPACE_BEGIN

template <class T_, int kRowTiles_, int kColumns_, int kSlice_, int kStages_, bool kOfText_>
struct ContrastiveGradientTile {
  using T = T_;
  static constexpr bool kOfText = kOfText_;
  static constexpr int kRowTiles = kRowTiles_, kColumns = kColumns_, kSlice = kSlice_, kStages = kStages_;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kRows = 16 * kRowTiles * kWarps;
  using SlopeTile = Tile<T, kOfText ? kSlice : kRows, kOfText ? kRows : kSlice>;
  using OtherTile = Tile<T, kSlice, kColumns>;
  static constexpr int kSharedBytes = kStages * (SlopeTile::kBytes + OtherTile::kBytes);

  const ContrastiveCall& call;
  Accumulator<kRowTiles, kColumns / 8> sum;

  MMK_DEVICE explicit ContrastiveGradientTile(const ContrastiveCall& c) : call(c) {}

  /// Rows of the gradient that this launch makes.
  MMK_DEVICE static int64_t length(const ContrastiveCall& call) {
    return kOfText ? call.problem.columns : smaller<int64_t>(call.band_rows, call.problem.rows - call.band_first);
  }
  static int64_t blocks(const ContrastiveCall& call) {
    return ceil_div(kOfText ? call.columns_padded : call.band_rows, kRows) * ceil_div(call.problem.dim, kColumns);
  }

  MMK_DEVICE void run() {
    const ContrastiveProblem& p = call.problem;
    const Shared memory = shared_memory();
    const int tiles = static_cast<int>(ceil_div(kOfText ? call.columns_padded : call.band_rows, kRows));
    const int64_t first = static_cast<int64_t>(block_index_x() % tiles) * kRows;
    const int64_t feature = static_cast<int64_t>(block_index_x() / tiles) * kColumns;
    const int64_t depth = kOfText ? smaller<int64_t>(call.band_rows, p.rows - call.band_first) : p.columns;
    const ContrastiveRows& other = kOfText ? p.image : p.text;
    const int64_t other_first = kOfText ? call.band_first : 0;
    const auto slope_tile = [&](int stage) { return SlopeTile{memory + stage * SlopeTile::kBytes}; };
    const auto other_tile = [&](int stage) {
      return OtherTile{memory + (kStages * SlopeTile::kBytes + stage * OtherTile::kBytes)};
    };
    const Global<const T> slopes = global<T>(static_cast<const void*>(call.slopes));
    const auto others =
        Rows<T>::of(global<T>(other.data) + (other_first * other.stride + feature), other.stride, p.dim - feature);
    sum.clear();
    for_each_slice<kStages>(
        static_cast<int>(ceil_div(depth, kSlice)),
        [&](int slice, int stage) {
          const int64_t begin = static_cast<int64_t>(slice) * kSlice;
          const int64_t row = kOfText ? begin : first, column = kOfText ? first : begin;
          const auto dx = Rows<T>::of(slopes + (row * call.columns_padded + column), call.columns_padded,
                                      call.columns_padded - column);
          copy_rows<kThreads, true>(slope_tile(stage), dx, 0,
                                    static_cast<int>(smaller<int64_t>(call.band_rows - row, SlopeTile::kRows)));
          copy_rows<kThreads, false>(other_tile(stage), others, begin,
                                     static_cast<int>(smaller<int64_t>(depth - begin, kSlice)));
        },
        [&](int stage) {
          add_product<kOfText>(sum, slope_tile(stage), warp_index() * 16 * kRowTiles, other_tile(stage));
        });
    end(first, feature);
  }

  MMK_DEVICE void end(int64_t first, int64_t feature) const {
    const ContrastiveProblem& p = call.problem;
    const ContrastiveGradient& to = kOfText ? p.grad_text : p.grad_image;
    const float scale = call_scale(call), inverse = call.range == nullptr ? 1.0f : number_at(call.range, 1);
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const int64_t row = first + warp_index() * 16 * kRowTiles + r / 2 * 16 + r % 2 * 8 + lane_index() / 4;
      if (row >= length(call)) continue;
      const int64_t at = ((kOfText ? 0 : call.band_first) + row) * p.dim;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int64_t column = feature + 8 * n + lane_index() % 4 * 2 + e;
          if (column < p.dim) write(to, at + column, sum.at[r / 2][n][r % 2 * 2 + e], inverse, scale);
        }
      }
    }
  }

  MMK_DEVICE void write(const ContrastiveGradient& to, int64_t i, float x, float inverse, float scale) const {
    if constexpr (kOfText) {
      const Global<float> carry = global<float>(static_cast<void*>(call.carry)) + i;
      if (!call.first_band) x += load_written(carry);
      if (!call.last_band) return store(carry, x);
    }
    const float finished = x * inverse * scale;
    if (to.dtype == DType::kFloat32) {
      store(global<float>(to.data) + i, finished);
    } else {
      store(global<T>(to.data) + i, narrow<T>(finished));
    }
  }
};

MMK_NAMESPACE_END
