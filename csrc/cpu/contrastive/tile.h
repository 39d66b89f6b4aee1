// What forward and backward share: how the batch is cut, the operands as readers of a product, a tile of dot products
// and its positives.
//
// A tile is what product_block() leaves: panels of kPanel columns, each [rows][kPanel], the columns beyond the last one
// anything.
#pragma once

#include "../../core/contrastive_problem.h"
#include "../../core/softmax.h"
#include "../product.h"

MMK_NAMESPACE_BEGIN
namespace contrastive {

constexpr int64_t kBlock = 256;  // rows and columns of a tile at most: 256 KiB, to stay in the second-level cache
constexpr int kMaxGroups = 16;
static_assert(kBlock <= kMaxBlockColumns && kBlock % kPanel == 0 && kBlock <= kDepth);

/// One axis of the batch, cut into blocks, and these into at most kMaxGroups groups: a group is the work of one thread.
/// Only its length counts, never the number of threads. Small batches take smaller blocks, lest there be too few groups.
struct Cut {
  int64_t length, block, blocks;
  int groups;

  explicit Cut(int64_t n)
      : length(n),
        block(n <= 512    ? 64
              : n <= 2048 ? 128
                          : kBlock),
        blocks(ceil_div(n, block)),
        groups(static_cast<int>(smaller<int64_t>(blocks, kMaxGroups))) {}
  int64_t first_block(int64_t group) const { return group * blocks / groups; }
};

/// Embeddings from row `first` on.
inline StoredRows embeddings(const ContrastiveRows& rows, int64_t first = 0) {
  return {at(rows.data, rows.dtype, first * rows.stride), rows.dtype, rows.stride};
}

/// A tile as operand of a product.
struct TileNumbers {
  const float* tile;
  int64_t rows;

  const TileNumbers& part(int) const { return *this; }
  const float* numbers(int64_t row, int64_t first, int64_t count, float* buffer) const {
    for (int64_t done = 0; done < count;) {
      const int64_t column = first + done, inside = column % kPanel;
      const int64_t length = smaller(kPanel - inside, count - done);
      const float* from = tile + (column - inside) * rows + row * kPanel + inside;
      if (length == count) return from;
      if (length == kPanel) {
        for (int v = 0; v < kTileVectors; ++v) store(buffer + done + v * kLanes, load(from + v * kLanes));
      } else {
        memcpy(buffer + done, from, static_cast<size_t>(length) * sizeof(float));
      }
      done += length;
    }
    return buffer;
  }
  const uint16_t* bits(int64_t, int64_t) const { return nullptr; }
  void prefetch(int64_t, int64_t, int64_t) const {}  // it was made a moment ago
};

/// Rows [row, row + rows) and columns [column, column + columns) of the logits.
struct Place {
  int64_t row, rows, column, columns;
};

inline Element element_of(const ContrastiveProblem& p) {
  return kBfloat16Pairs && p.image.dtype == DType::kBFloat16 ? Element::kPair : Element::kFloat;
}

/// image text^T.
inline void dot_products(const ContrastiveProblem& p, const Place& at, const BlockScratch& scratch, float* tile) {
  const Along<StoredRows> image{embeddings(p.image)}, text{embeddings(p.text)};
  product_block(element_of(p), Depth{&p.dim, 1}, image, text, at.row, at.rows, at.column, at.columns, scratch, tile);
}

/// Which lanes of a panel are columns of the tile.
struct PanelLanes {
  Int valid[kTileVectors];
  bool ragged;

  explicit PanelLanes(int64_t columns) : ragged(columns < kPanel) {
    for (int v = 0; v < kTileVectors; ++v) valid[v] = lane_indices() + v * kLanes < static_cast<int32_t>(columns);
  }
  Float keep(int v, Float x, Float otherwise) const { return ragged ? select(valid[v], x, otherwise) : x; }
};

/// Calls visit(r, c) for the positives of panel columns [first, first + columns) of the tile at `at`, row by row; c counts
/// from `first`.
template <class Visit>
inline void visit_positives(const ContrastivePositives& positives, const Place& at, int64_t first, int64_t columns,
                            const Visit& visit) {
  const int64_t column = at.column + first;
  if (!positives.matrix) {
    for (int64_t r = 0; r < at.rows; ++r) {
      const int64_t row = at.row + r;
      const int64_t target = positives.index ? positives.index[row * positives.index_stride] : row;
      if (target >= column && target - column < columns) visit(r, target - column);
    }
    return;
  }
  for (int64_t r = 0; r < at.rows; ++r) {
    const uint8_t* row = positives.matrix + (at.row + r) * positives.row_stride + column * positives.column_stride;
    int64_t c = 0;
    if (positives.column_stride == 1) {  // most are none: eight at a time
      for (; c + 8 <= columns; c += 8) {
        uint64_t eight;
        memcpy(&eight, row + c, sizeof eight);
        for (int64_t i = 0; eight != 0 && i < 8; ++i) {
          if (row[c + i]) visit(r, c + i);
        }
      }
    }
    for (; c < columns; ++c) {
      if (row[c * positives.column_stride]) visit(r, c);
    }
  }
}

}  // namespace contrastive
MMK_NAMESPACE_END
