// Products of matrices larger than the caches, C(i, j) = sum_k A(i, k) B(k, j), never stored as a whole: blocks of C go to
// a sink, which makes of them what the caller wants. Under concat_fusion and contrastive_loss.
//
// The sum over k is cut into parts (sources) and these into slices of kDepth elements. An element of C is the sum of its
// slices in order, each one chain (gemm.h). So its bits do not depend on the block it is in, on the number of threads, nor
// on which operand stands left: a product commutes.
//
// A block is at most kMaxBlockRows x kMaxBlockColumns. For each slice the right operand is packed once into panels, the left
// one in stripes of kStripe rows; both stay in the second-level cache, a panel of the right one in the first.
//
// Sources: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008; Van Zee and van de Geijn,
// "BLIS", 2015.
#pragma once

#include "panels.h"
#include "parallel.h"

MMK_NAMESPACE_BEGIN

constexpr int64_t kStripe = 8 * kTileRows;
constexpr int64_t kMaxBlockRows = 8 * kStripe;

/// Lengths of the parts of the axis that is summed over.
struct Depth {
  const int64_t* lengths;
  int parts;

  int64_t total() const {
    int64_t sum = 0;
    for (int i = 0; i < parts; ++i) sum += lengths[i];
    return sum;
  }
};

/// Scratch of a block.
struct BlockScratch {
  static constexpr int64_t kLeft = round_up(larger(kStripe * kLeftStride, kStripe* kDepth), 16);
  static constexpr int64_t kRight = kMaxBlockColumns * kDepth;

  float *left, *right, *buffer;

  static constexpr int64_t floats() { return kLeft + kRight + kReadBuffer; }
  explicit BlockScratch(Arena& arena)
      : left(arena.take(kLeft)), right(arena.take(kRight)), buffer(arena.take(kReadBuffer)) {}
};

/// Rows [row, row + rows) and columns [column, column + columns) of the product, in `c`: panels of kPanel columns, each
/// [rows][kPanel]. Columns beyond `columns` come out as anything.
template <class Left, class Right>
inline void product_block(Element element, const Depth& depth, const Left& left, const Right& right, int64_t row,
                          int64_t rows, int64_t column, int64_t columns, const BlockScratch& scratch, float* c) {
  bool first = true;
  for (int part = 0; part < depth.parts; ++part) {
    for (int64_t k = 0; k < depth.lengths[part]; k += kDepth * numbers_in(element)) {
      const Slice slice{part, k, smaller(kDepth * numbers_in(element), depth.lengths[part] - k)};
      const int64_t links = elements(element, slice.count);
      right.pack(element, slice, column, columns, scratch.right, scratch.buffer);
      for (int64_t m = 0; m < rows; m += kStripe) {
        const int64_t height = smaller(kStripe, rows - m);
        const LeftTiles tiles = left.stage(element, slice, row + m, height, scratch.left, scratch.buffer);
        for (int64_t n = 0; n < columns; n += kPanel) {
          const int vectors = static_cast<int>(ceil_div(smaller<int64_t>(kPanel, columns - n), kLanes));
          const float* panel = scratch.right + n * links;
          for (int64_t t = 0; t < height; t += kTileRows) {
            const float* tile = tiles.data + t / kTileRows * tiles.tile;
            const int64_t tile_rows = smaller<int64_t>(kTileRows, height - t);
            float* target = c + n * rows + (m + t) * kPanel;
            if (first) {
              gemm<Start::kZero, Left::kLeft>(element, tile_rows, vectors, tile, tiles.stride, panel, kPanel, links,
                                              target, kPanel);
            } else {
              gemm<Start::kAdd, Left::kLeft>(element, tile_rows, vectors, tile, tiles.stride, panel, kPanel, links,
                                             target, kPanel);
            }
          }
        }
      }
      first = false;
    }
  }
  if (first) memset(c, 0, static_cast<size_t>(rows * round_up(columns, kPanel)) * sizeof(float));
}

/// A multiple of both: where a block of rows may end, so that a sink sees whole groups of kPanel rows.
constexpr int64_t kRowGrain = kPanel % kTileRows ? 3 * kPanel : kPanel;
static_assert(kRowGrain % kTileRows == 0 && kRowGrain % kPanel == 0 && kMaxBlockRows % kRowGrain == 0);

/// How a product is cut into blocks, and whether its operands change sides. Bits do not depend on it.
struct Plan {
  bool swapped = false;
  int64_t block_rows = 1, block_columns = 1;
};

/// Time of the slowest thread, in multiply-adds of vectors. Packing an element takes about as long as the numbers say.
inline double block_time(int64_t rows, int64_t columns, int64_t depth, int64_t threads, int64_t block_rows,
                         int64_t block_columns) {
  constexpr double kPackLeft = 0.15, kPackRight = 0.45;
  const int64_t row_blocks = ceil_div(rows, block_rows), column_blocks = ceil_div(columns, block_columns);
  const double height = static_cast<double>(round_up(block_rows, kTileRows / 2));
  const double width = static_cast<double>(round_up(block_columns, kLanes));
  const double block = height * width / kLanes + kPackLeft * height + kPackRight * width;
  return static_cast<double>(ceil_div(row_blocks * column_blocks, threads)) * block * static_cast<double>(depth);
}

inline Plan plan_product(int64_t rows, int64_t columns, int64_t depth, int64_t threads) {
  Plan best;
  double least = 0.0;
  for (int side = 0; side < 2; ++side) {
    const bool swapped = side == 1;
    const int64_t m = larger<int64_t>(swapped ? columns : rows, 1), n = larger<int64_t>(swapped ? rows : columns, 1);
    const int64_t fewest_m = ceil_div(m, kMaxBlockRows), fewest_n = ceil_div(n, kMaxBlockColumns);
    // The more parts, the wider the steps: on many threads there are many candidates
    for (int64_t i = fewest_m; i <= fewest_m + 2 * threads; i += 1 + i / 4) {
      for (int64_t j = fewest_n; j <= fewest_n + 2 * threads; j += 1 + j / 4) {
        const int64_t height = round_up(ceil_div(m, i), kRowGrain), width = round_up(ceil_div(n, j), kPanel);
        const double time = block_time(m, n, depth, threads, smaller(height, m), smaller(width, n));
        if (least > 0.0 && time >= least) continue;
        least = time;
        best = {swapped, smaller(height, kMaxBlockRows), smaller(width, kMaxBlockColumns)};
      }
    }
  }
  return best;
}

/// A panel to the sink, in stripes no higher than a panel is wide, with rows and columns exchanged.
template <class Sink>
inline void sink_transposed(const Sink& sink, int64_t row, int64_t rows, int64_t column, int64_t columns,
                            const float* c) {
  alignas(64) float square[kPanel * kPanel];
  for (int64_t m = 0; m < rows; m += kPanel) {
    const int64_t height = smaller<int64_t>(kPanel, rows - m);
    for (int i = 0; i < kPanel; i += kLanes) {
      for (int64_t j = 0; j < height; j += kLanes) {
        transpose_square(c + (m + j) * kPanel + i, kPanel, square + i * kPanel + j, kPanel);
      }
    }
    sink(column, columns, row + m, height, square);
  }
}

/// Calls sink(row, rows, column, columns, c) once for every part of C: at most kPanel columns, c[rows][kPanel].
template <class Left, class Right, class Sink>
inline void product(const Threads& threads, Element element, int64_t rows, int64_t columns, const Depth& depth,
                    const Left& left, const Right& right, const Sink& sink) {
  if (rows == 0 || columns == 0) return;
  const double operations = 2.0 * static_cast<double>(rows) * static_cast<double>(columns) *
                            static_cast<double>(larger<int64_t>(depth.total(), 1));
  const Plan plan = plan_product(rows, columns, depth.total(), threads.count);
  const int64_t m = plan.swapped ? columns : rows, n = plan.swapped ? rows : columns;
  const int64_t row_blocks = ceil_div(m, plan.block_rows), column_blocks = ceil_div(n, plan.block_columns);
  // A transposed panel is read in whole squares: kLanes - 1 rows beyond its last one
  const int64_t c_size = (plan.block_rows + kLanes) * round_up(plan.block_columns, kPanel);
  parallel(threads, row_blocks * column_blocks, operations, [&](Claim& claim) {
    Arena arena(BlockScratch::floats() + c_size + 64);
    const BlockScratch scratch(arena);
    float* c = arena.take(c_size);
    for (int64_t index; (index = claim.next()) >= 0;) {
      // Blocks of one group of columns follow each other: their right operand is still in a cache
      const int64_t row = index % row_blocks * plan.block_rows, column = index / row_blocks * plan.block_columns;
      const int64_t height = smaller(plan.block_rows, m - row), width = smaller(plan.block_columns, n - column);
      if (plan.swapped) {
        product_block(element, depth, right, left, row, height, column, width, scratch, c);
      } else {
        product_block(element, depth, left, right, row, height, column, width, scratch, c);
      }
      for (int64_t p = 0; p < width; p += kPanel) {
        const int64_t panel = smaller<int64_t>(kPanel, width - p);
        if (plan.swapped) {
          sink_transposed(sink, row, height, column + p, panel, c + p * height);
        } else {
          sink(row, height, column + p, panel, c + p * height);
        }
      }
    }
  });
}

MMK_NAMESPACE_END
