// The tiles of query rows of a call, over sequences and key heads.
#pragma once

#include "tile.h"

MMK_NAMESPACE_BEGIN

/// Every (sequence, key head, first row) of the call.
struct Tiles {
  const AttentionProblem& p;
  int64_t height, per_batch = 0, count = 0;
  int64_t* before = nullptr;  // varlen: tiles of one head before each sequence

  Tiles(const AttentionProblem& problem, int64_t tile_height) : p(problem), height(tile_height) {
    if (p.cu_q) {
      before = static_cast<int64_t*>(std::malloc(static_cast<size_t>(p.batch + 1) * sizeof(int64_t)));
      before[0] = 0;
      for (int64_t b = 0; b < p.batch; ++b) before[b + 1] = before[b] + ceil_div(rows_of(p, sequence_of(p, b)), height);
      count = before[p.batch] * p.heads_k;
    } else {
      per_batch = p.batch ? ceil_div(rows_of(p, sequence_of(p, 0)), height) : 0;
      count = per_batch * p.heads_k * p.batch;
    }
  }
  ~Tiles() { std::free(before); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  /// Of any tile.
  int64_t most_rows() const {
    int64_t rows = 0;
    for (int64_t b = 0; b < p.batch; ++b) rows = larger(rows, rows_of(p, sequence_of(p, b)));
    return smaller(rows, height);
  }
  /// Returns the tile's first row among the rows of its key head.
  int64_t load(int64_t index, RowTile& tile) const {
    int64_t batch = 0, head = 0, row = 0;
    if (before) {
      while (before[batch + 1] * p.heads_k <= index) ++batch;
      const int64_t n = before[batch + 1] - before[batch], rest = index - before[batch] * p.heads_k;
      head = rest / n;
      row = rest % n;
    } else {
      batch = index / (per_batch * p.heads_k);
      head = index / per_batch % p.heads_k;
      row = index % per_batch;
    }
    const Sequence sequence = sequence_of(p, batch);
    const int64_t first = row * height;
    init_rows(p, sequence, head, first, smaller(height, rows_of(p, sequence) - first), tile);
    return first;
  }
};

/// Lower tiles where there are too few for the threads.
inline int64_t tile_height(const AttentionProblem& p, const Threads& threads) {
  int64_t height = kBlockRows;
  while (height > kSlice && Tiles(p, height).count < 3 * threads.count) height /= 2;
  return height;
}

MMK_NAMESPACE_END
