// A tile of query rows: which rows, what they see, and how they enter and leave scratch.
//
// The rows of one tile are rows (g, i) of the sequence's query heads g that share one key head, so that the keys are read
// once for all of them and few queries with grouped heads still fill the lanes.
#pragma once

#include "../../core/mask.h"
#include "stage.h"

MMK_NAMESPACE_BEGIN

constexpr int kBlockRows = 64;                 // query-tile height: free, no bit depends on it
constexpr int kBlockKeys = 64;                 // the key-block grid starts at each segment's first key
constexpr int kChunkKeys = 8 * kBlockKeys;     // a row is the ordered merge of chunks of this many keys
constexpr int kRowStride = kBlockRows + 16;    // padded, so that rows of a tile fall into different cache sets
constexpr int kSlice = kTileVectors * kLanes;  // rows that go through the softmax together

/// Where one sequence of the batch stands in the tensors.
struct Sequence {
  int64_t batch;         // index of the batch, or of the packed sequence
  int64_t tensor_batch;  // index on the tensors' batch axis: 0 when packed
  int64_t first_row, first_key;
  int64_t len_q, len_k;
};

inline Sequence sequence_of(const AttentionProblem& p, int64_t batch) {
  if (!p.cu_q) return {batch, batch, 0, 0, p.len_q, p.len_k};
  return {batch, 0, p.cu_q[batch], p.cu_k[batch], p.cu_q[batch + 1] - p.cu_q[batch], p.cu_k[batch + 1] - p.cu_k[batch]};
}

inline int64_t segment_length(const AttentionProblem& p, const Sequence& sequence, int segment) {
  return p.cu_q ? sequence.len_k : p.segments[segment].length;
}

struct Slice {
  int first, vectors;  // first row in the tile; lanes / kLanes
  int rows() const { return vectors * kLanes; }
};

struct RowTile {
  Sequence sequence;
  int64_t head_k;
  int rows, padded;  // padded to whole vectors with copies of the last row
  int32_t query[kBlockRows], head[kBlockRows];
  int32_t ignores_dense[kBlockRows];            // -1: an empty row that was unmasked
  int32_t start[kBlockRows], stop[kBlockRows];  // of the current segment
  int segment;                                  // whose intervals are loaded; -1: none
  bool one_head, any_ignores_dense;

  Slice slice(int index) const {
    const int first = index * kSlice, left = (padded - first) / kLanes;
    return {first, left < kTileVectors ? left : kTileVectors};
  }
  int slices() const { return (padded + kSlice - 1) / kSlice; }
};

inline int64_t rows_of(const AttentionProblem& p, const Sequence& sequence) {
  return sequence.len_q * (p.heads_q / p.heads_k);
}

inline void raw_interval(const AttentionProblem& p, const RowTile& tile, int r, int segment, int32_t& start,
                         int32_t& stop) {
  const MaskView& m = p.mask;
  const int64_t length = segment_length(p, tile.sequence, segment);
  const int64_t index[4] = {segment, tile.sequence.tensor_batch, tile.head[r], tile.sequence.first_row + tile.query[r]};
  start = 0;
  stop = static_cast<int32_t>(length);
  if (!m.start) return;
  int64_t at_start = 0, at_stop = 0;
  for (int axis = 0; axis < 4; ++axis) {
    at_start += index[axis] * m.start_stride[axis];
    at_stop += index[axis] * m.stop_stride[axis];
  }
  start = clamp_index(m.start[at_start], length);
  stop = clamp_index(m.stop[at_stop], length);
}

inline const uint8_t* visible_row(const AttentionProblem& p, const RowTile& tile, int r) {
  const int64_t* s = p.mask.visible_stride;
  return p.mask.visible + tile.sequence.batch * s[0] + tile.head[r] * s[1] + tile.query[r] * s[2];
}

inline bool sees_a_key(const AttentionProblem& p, const RowTile& tile, int r) {
  for (int s = 0; s < p.num_segments; ++s) {
    int32_t start, stop;
    raw_interval(p, tile, r, s, start, stop);
    if (start >= stop) continue;
    if (!p.mask.visible) return true;
    const uint8_t* visible = visible_row(p, tile, r) + p.segments[s].offset * p.mask.visible_stride[3];
    for (int32_t key = start; key < stop; ++key) {
      if (visible[key * p.mask.visible_stride[3]]) return true;
    }
  }
  return false;
}

/// Rows [first, first + rows) of the (query head in group, query) rows of one key head.
inline void init_rows(const AttentionProblem& p, const Sequence& sequence, int64_t head_k, int64_t first, int64_t rows,
                      RowTile& tile) {
  tile.sequence = sequence;
  tile.head_k = head_k;
  tile.segment = -1;
  tile.rows = static_cast<int>(rows);
  tile.padded = static_cast<int>(round_up(rows, kLanes));
  const int64_t group = p.heads_q / p.heads_k;
  int64_t head = first / sequence.len_q, query = first % sequence.len_q;
  for (int r = 0; r < tile.padded; ++r) {
    tile.head[r] = static_cast<int32_t>(head_k * group + head);
    tile.query[r] = static_cast<int32_t>(query);
    if (r + 1 < tile.rows && ++query == sequence.len_q) {  // the last row is repeated
      query = 0;
      ++head;
    }
  }
  for (int r = 0; r < tile.padded; ++r) {
    tile.ignores_dense[r] = p.mask.unmask_empty_rows && !sees_a_key(p, tile, r) ? -1 : 0;
  }
  tile.any_ignores_dense = false;
  for (int r = 0; r < tile.padded; ++r) tile.any_ignores_dense |= tile.ignores_dense[r] != 0;
  tile.one_head = tile.head[0] == tile.head[tile.padded - 1];
}

inline void load_intervals(const AttentionProblem& p, int segment, RowTile& tile) {
  if (tile.segment == segment) return;
  tile.segment = segment;
  if (!p.mask.start) {
    const int32_t length = static_cast<int32_t>(segment_length(p, tile.sequence, segment));
    for (int r = 0; r < tile.padded; ++r) {
      tile.start[r] = 0;
      tile.stop[r] = length;
    }
    return;
  }
  for (int r = 0; r < tile.padded; ++r) {
    raw_interval(p, tile, r, segment, tile.start[r], tile.stop[r]);
    if (tile.ignores_dense[r]) {
      tile.start[r] = 0;
      tile.stop[r] = static_cast<int32_t>(segment_length(p, tile.sequence, segment));
    }
  }
}

/// The rows of a tensor that a tile holds.
inline const char* row_of(const TensorView& t, const RowTile& tile, int r) {
  return row_of(t, tile.sequence.tensor_batch, tile.head[r], tile.sequence.first_row + tile.query[r]);
}

/// Packs rows of a tensor as [row][element of features] and, where the caller needs it, as [element][row]; elements and
/// rows beyond the end are 0. Floats are multiplied by the factor.
inline void pack_rows(Element element, const TensorView& t, const RowTile& tile, int64_t dim, float factor, float* rows,
                      float* transposed) {
  const int64_t width = round_up(elements(element, dim), kLanes);
  for (int r = 0; r < tile.rows; ++r) {
    read_row(element, row_of(t, tile, r), t.dtype, dim, factor, width, rows + r * width);
  }
  memset(rows + tile.rows * width, 0, static_cast<size_t>((tile.padded - tile.rows) * width) * sizeof(float));
  if (transposed) transpose(rows, width, tile.padded, width, transposed, kRowStride);
}

/// Packs rows of a tensor as [pair of rows][feature].
inline void pack_row_pairs(const TensorView& t, const RowTile& tile, int64_t dim, float* pairs) {
  const int64_t width = round_up(dim, kLanes);
  for (int r = 0; r < tile.rows; r += 2) {
    pair_rows(row_of(t, tile, r), r + 1 < tile.rows ? row_of(t, tile, r + 1) : nullptr, dim, width,
              pairs + r / 2 * width);
  }
}

/// Writes [feature][row], each row times its factor, to the rows of a tensor; `rows` is scratch.
inline void unpack_rows(const float* transposed, const float* factor, const RowTile& tile, int64_t dim,
                        const TensorView& t, float* rows) {
  const int64_t padded_dim = round_up(dim, kLanes);
  transpose(transposed, kRowStride, padded_dim, tile.padded, rows, padded_dim);
  for (int r = 0; r < tile.rows; ++r) {
    float* row = rows + r * padded_dim;
    for (int64_t d = 0; d < padded_dim; d += kLanes) store(row + d, load(row + d) * splat(factor[r]));
    narrow_run(row, dim, const_cast<char*>(row_of(t, tile, r)), t.dtype);
  }
}

MMK_NAMESPACE_END
