// Products of matrices larger than the caches, C(i, j) = sum_k A(i, k) B(k, j), never stored as a whole: blocks of C go to
// a sink, which makes of them what the caller wants. Under concat_fusion and contrastive_loss.
//
// The sum over k is cut into parts (sources), these into slices of kDepth elements, and these into chains of kDepth
// numbers: a longer one of equal terms drifts. An element of C is the sum of its chains in order (gemm.h). So its bits do
// not depend on the block it is in, on the number of threads, nor on which operand stands left: a product commutes.
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
  /// The slice that follows, of no numbers behind the last; the first follows {-1, 0, 0}.
  Slice after(Element element, Slice slice) const {
    slice.first += slice.count;
    while (slice.part < 0 || (slice.part < parts && slice.first == lengths[slice.part])) slice = {slice.part + 1, 0, 0};
    if (slice.part >= parts) return {parts, 0, 0};
    slice.count = smaller(kDepth * numbers_in(element), lengths[slice.part] - slice.first);
    return slice;
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

/// A block of a product: panels of kPanel columns.
struct Block {
  const float* data;
  int64_t panel;  // from panel to panel
  const float* at(int64_t row, int64_t column) const {
    return data + column / kPanel * panel + row * kPanel + column % kPanel;
  }
};

/// Rows [row, row + rows) and columns [column, column + columns) of the product, in `c`: panels of [rows][kPanel].
/// Columns beyond `columns` come out as anything.
template <class Left, class Right>
inline void product_block(Element element, const Depth& depth, const Left& left, const Right& right, int64_t row,
                          int64_t rows, int64_t column, int64_t columns, const BlockScratch& scratch, float* c) {
  Slice slice = depth.after(element, {-1, 0, 0});
  if (!slice.count) memset(c, 0, static_cast<size_t>(rows * round_up(columns, kPanel)) * sizeof(float));
  const int64_t panels = ceil_div(columns, kPanel), steps = ceil_div(rows, kStripe) * panels;
  for (bool first = true; slice.count; first = false) {
    const Slice next = depth.after(element, slice);
    const int64_t links = elements(element, slice.count), chain = elements(element, kDepth);
    int64_t step = 0;
    right.pack(element, slice, column, columns, scratch.right, scratch.buffer);
    for (int64_t m = 0; m < rows; m += kStripe) {
      const int64_t height = smaller(kStripe, rows - m);
      const LeftTiles tiles = left.stage(element, slice, row + m, height, scratch.left, scratch.buffer);
      for (int64_t p = 0; p < panels; ++p, ++step) {
        // What comes next is asked for meanwhile, little by little
        if (m + kStripe < rows) {
          left.prefetch(slice, row + m + kStripe, smaller(kStripe, rows - m - kStripe), p, panels);
        } else if (next.count) {
          left.prefetch(next, row, smaller(kStripe, rows), p, panels);
        }
        if (next.count) right.prefetch(next, column, columns, step, steps);
        const int vectors = static_cast<int>(ceil_div(smaller<int64_t>(kPanel, columns - p * kPanel), kLanes));
        const float* panel = scratch.right + p * kPanel * links;
        for (int64_t t = 0; t < height; t += kTileRows) {
          const float* tile = tiles.data + t / kTileRows * tiles.tile;
          const int64_t tile_rows = smaller<int64_t>(kTileRows, height - t);
          float* target = c + p * kPanel * rows + (m + t) * kPanel;
          for (int64_t k = 0; k < links; k += chain) {
            const float* left_part = tile + k * (Left::kLeft == Layout::kRows ? 1 : tiles.stride);
            const auto add = first && k == 0 ? gemm<Start::kZero, Left::kLeft> : gemm<Start::kAdd, Left::kLeft>;
            add(element, tile_rows, vectors, left_part, tiles.stride, panel + k * kPanel, kPanel,
                smaller(chain, links - k), target, kPanel, nullptr);
          }
        }
      }
    }
    slice = next;
  }
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

/// A panel, [rows][kPanel], turned around: [kPanel][rows] as a block of `rows` columns in `to`.
inline Block transpose_panel(const float* c, int64_t rows, float* to) {
  for (int64_t m = 0; m < rows; m += kLanes) {
    for (int i = 0; i < kPanel; i += kLanes) {
      transpose_square(c + m * kPanel + i, kPanel, to + m / kPanel * (kPanel * kPanel) + i * kPanel + m % kPanel,
                       kPanel);
    }
  }
  return {to, kPanel * kPanel};
}

/// Calls sink(row, rows, column, columns, block) once for every block of C.
template <class Left, class Right, class Sink>
inline void product(const Threads& threads, Element element, int64_t rows, int64_t columns, const Depth& depth,
                    const Left& left, const Right& right, const Sink& sink) {
  if (rows == 0 || columns == 0) return;
  const double operations = 2.0 * static_cast<double>(rows) * static_cast<double>(columns) *
                            static_cast<double>(larger<int64_t>(depth.total(), 1));
  const Plan plan = plan_product(rows, columns, depth.total(), threads.count);
  const int64_t m = plan.swapped ? columns : rows, n = plan.swapped ? rows : columns;
  const int64_t row_blocks = ceil_div(m, plan.block_rows), column_blocks = ceil_div(n, plan.block_columns);
  // A panel is turned around in whole squares: it is read up to kLanes - 1 rows beyond its last
  const int64_t c_size = (plan.block_rows + kLanes) * round_up(plan.block_columns, kPanel);
  const int64_t turned_size = plan.swapped ? kPanel * round_up(plan.block_rows, kPanel) : 0;
  parallel(threads, row_blocks * column_blocks, operations, [&](Claim& claim) {
    Arena arena(BlockScratch::floats() + c_size + turned_size + 64);
    const BlockScratch scratch(arena);
    float *c = arena.take(c_size), *turned = arena.take(turned_size);
    for (int64_t index; (index = claim.next()) >= 0;) {
      // Blocks of one group of columns follow each other: their right operand is still in a cache
      const int64_t row = index % row_blocks * plan.block_rows, column = index / row_blocks * plan.block_columns;
      const int64_t height = smaller(plan.block_rows, m - row), width = smaller(plan.block_columns, n - column);
      if (!plan.swapped) {
        product_block(element, depth, left, right, row, height, column, width, scratch, c);
        sink(row, height, column, width, Block{c, height * kPanel});
        continue;
      }
      product_block(element, depth, right, left, row, height, column, width, scratch, c);
      for (int64_t p = 0; p < width; p += kPanel) {
        const Block block = transpose_panel(c + p * height, height, turned);
        sink(column + p, smaller<int64_t>(kPanel, width - p), row, height, block);
      }
    }
  });
}

MMK_NAMESPACE_END
