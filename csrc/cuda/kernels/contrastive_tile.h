// A tile of dot products image text^T, which the kernels of contrastive_loss start from, and who is a positive in it.
//
// A block of threads has kRows rows of image by kColumns rows of text, each warp 16 kRowTiles of the rows. The features
// come in slices of kSlice, through a ring in shared memory; the products stay in registers.
#pragma once

#include "../tile/accumulate.h"
#include "../tile/contrastive_call.h"

MMK_NAMESPACE_BEGIN

/// Rows of an operand from `first` on, features from `feature` on.
template <class T>
MMK_DEVICE Rows<T> embeddings(const ContrastiveRows& rows, int64_t first, int64_t feature, int64_t dim) {
  return Rows<T>::of(global<T>(rows.data) + (first * rows.stride + feature), rows.stride, dim - feature);
}

template <class T_, int kRowTiles_, int kColumns_, int kSlice_, int kStages_>
struct ContrastiveTile {
  using T = T_;
  static constexpr int kRowTiles = kRowTiles_, kColumns = kColumns_, kSlice = kSlice_, kStages = kStages_;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kRows = 16 * kRowTiles * kWarps, kLaneRows = 2 * kRowTiles;
  using ImageTile = Tile<T, kRows, kSlice>;
  using TextTile = Tile<T, kColumns, kSlice>;
  using Products = Accumulator<kRowTiles, kColumns / 8>;
  static_assert(kColumns / 4 <= 32, "a bit for each of a lane's columns");
  static constexpr int kRingBytes = kStages * (ImageTile::kBytes + TextTile::kBytes);

  const ContrastiveCall& call;
  Shared memory;
  int row_tile, column_tile;
  int64_t row_first, column_first;
  int rows, columns;  // of the call, from the tile's first on
  Products x;
  uint32_t positives[kLaneRows];

  MMK_DEVICE explicit ContrastiveTile(const ContrastiveCall& c) : call(c), memory(shared_memory()) {
    row_tile = block_index_x() % call.row_tiles;
    column_tile = block_index_x() / call.row_tiles;
    row_first = call.band_first + static_cast<int64_t>(row_tile) * kRows;
    column_first = static_cast<int64_t>(column_tile) * kColumns;
    rows = static_cast<int>(smaller<int64_t>(call.problem.rows - row_first, kRows));
    columns = static_cast<int>(smaller<int64_t>(call.problem.columns - column_first, kColumns));
  }

  /// Row r of this lane, in the tile; column e of its pair in column tile n.
  MMK_DEVICE static int row_of(int r) {
    return warp_index() * 16 * kRowTiles + r / 2 * 16 + r % 2 * 8 + lane_index() / 4;
  }
  MMK_DEVICE static int column_of(int n, int e) { return 8 * n + lane_index() % 4 * 2 + e; }
  MMK_DEVICE float& at(int r, int n, int e) { return x.at[r / 2][n][r % 2 * 2 + e]; }
  MMK_DEVICE bool inside(int r, int n, int e) const { return row_of(r) < rows && column_of(n, e) < columns; }

  /// Leaves the dot products in x; the shared memory is free afterwards.
  MMK_DEVICE void multiply() {
    const ContrastiveProblem& p = call.problem;
    const auto image = [&](int stage) { return ImageTile{memory + stage * ImageTile::kBytes}; };
    const auto text = [&](int stage) {
      return TextTile{memory + (kStages * ImageTile::kBytes + stage * TextTile::kBytes)};
    };
    const Rows<T> images = embeddings<T>(p.image, row_first, 0, p.dim);
    const Rows<T> texts = embeddings<T>(p.text, column_first, 0, p.dim);
    x.clear();
    for_each_slice<kStages>(
        static_cast<int>(ceil_div(p.dim, kSlice)),
        [&](int slice, int stage) {
          copy_rows<kThreads, false>(image(stage), images.from(slice * kSlice), 0, rows);
          copy_rows<kThreads, false>(text(stage), texts.from(slice * kSlice), 0, columns);
        },
        [&](int stage) { rows_by_rows<true>(x, image(stage), warp_index() * 16 * kRowTiles, text(stage)); });
    sync_block();
  }

  /// Leaves the positives of the tile, a bit for each of a lane's columns; whether the warp has some.
  MMK_DEVICE bool find_positives() {
    const ContrastivePositives& p = call.problem.positives;
    uint32_t some = 0;
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      const int64_t row = row_first + row_of(r);
      uint32_t bits = 0;
      if (row_of(r) >= rows) {
      } else if (p.matrix != nullptr) {
#pragma unroll 4
        for (int i = 0; i < kColumns / 4; ++i) {
          const int column = column_of(i / 2, i % 2);
          if (column < columns && positive_at(p, row, column_first + column)) bits |= 1u << i;
        }
      } else {
        const int64_t column = target_of(p, row) - column_first;
        if (column >= 0 && column < columns && column % 8 / 2 == lane_index() % 4)
          bits = 1u << (column / 8 * 2 + column % 2);
      }
      positives[r] = bits;
      some |= bits;
    }
    return warp_or(some) != 0;
  }
  MMK_DEVICE bool positive(int r, int n, int e) const { return (positives[r] >> (2 * n + e) & 1) != 0; }
};

MMK_NAMESPACE_END
