// A tile of query rows, and what a tile of keys means to it: visibility, bias, dropout.
//
// Lanes are query rows. Logits stand as [key][row], so that maxima, sums, intervals and Philox counters are all
// element-wise over lanes and no horizontal reduction is needed. The rows of one tile are rows (g, i) of the
// sequence's query heads g that share one key head, so that few queries with grouped heads still fill the lanes.
#pragma once

#include "../core/mask.h"
#include "../core/philox.h"
#include "memory.h"

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
  bool one_head;

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
  tile.rows = static_cast<int>(rows);
  tile.padded = static_cast<int>(round_up(rows, kLanes));
  for (int r = 0; r < tile.padded; ++r) {
    const int64_t row = first + smaller<int64_t>(r, rows - 1);
    tile.head[r] = static_cast<int32_t>(head_k * (p.heads_q / p.heads_k) + row / sequence.len_q);
    tile.query[r] = static_cast<int32_t>(row % sequence.len_q);
    tile.ignores_dense[r] = p.mask.unmask_empty_rows && !sees_a_key(p, tile, r) ? -1 : 0;
  }
  tile.one_head = tile.head[0] == tile.head[tile.padded - 1];
}

inline void load_intervals(const AttentionProblem& p, int segment, RowTile& tile) {
  for (int r = 0; r < tile.padded; ++r) {
    raw_interval(p, tile, r, segment, tile.start[r], tile.stop[r]);
    if (tile.ignores_dense[r]) {
      tile.start[r] = 0;
      tile.stop[r] = static_cast<int32_t>(segment_length(p, tile.sequence, segment));
    }
  }
}

/// Packs rows of a tensor as [feature][row] (`transposed`) and, where the caller needs it, leaves them as [row][feature]
/// in `rows`; features and rows beyond the end are 0.
inline void pack_rows(const TensorView& t, const RowTile& tile, int64_t dim, float factor, float* rows,
                      float* transposed) {
  const int64_t padded_dim = round_up(dim, kLanes);
  for (int r = 0; r < tile.padded; ++r) {
    float* to = rows + r * padded_dim;
    int64_t filled = 0;
    if (r < tile.rows) {
      const char* from = row_of(t, tile.sequence.tensor_batch, tile.head[r], tile.sequence.first_row + tile.query[r]);
      widen_run(from, t.dtype, dim, factor, to);
      filled = dim;
    }
    for (; filled < padded_dim; ++filled) to[filled] = 0.0f;
  }
  if (transposed) transpose(rows, padded_dim, tile.padded, padded_dim, transposed, kRowStride);
}

/// Writes [feature][row], each row times its factor, to the rows of a tensor; `rows` is scratch.
inline void unpack_rows(const float* transposed, const float* factor, const RowTile& tile, int64_t dim,
                        const TensorView& t, float* rows) {
  const int64_t padded_dim = round_up(dim, kLanes);
  transpose(transposed, kRowStride, padded_dim, tile.padded, rows, padded_dim);
  for (int r = 0; r < tile.rows; ++r) {
    float* row = rows + r * padded_dim;
    for (int64_t d = 0; d < padded_dim; d += kLanes) store(row + d, load(row + d) * splat(factor[r]));
    char* to =
        const_cast<char*>(row_of(t, tile.sequence.tensor_batch, tile.head[r], tile.sequence.first_row + tile.query[r]));
    narrow_run(row, dim, to, t.dtype);
  }
}

/// What one slice of rows needs to know about one block of keys, each [key][lane of the slice].
struct KeyBlock {
  int segment;
  int32_t first, keys;  // local to the segment
  TileClass tile_class;
  int32_t visible[kBlockKeys * kSlice];  // filled iff kPartial
  float bias[kBlockKeys * kSlice];       // filled iff the problem has a bias
};

// ---- visibility ----

inline void fill_visible(const RowTile& tile, const Slice& slice, KeyBlock& block) {
  for (int v = 0; v < slice.vectors; ++v) {
    const Int start = load(tile.start + slice.first + v * kLanes), stop = load(tile.stop + slice.first + v * kLanes);
    for (int32_t j = 0; j < block.keys; ++j) {
      const Int key = splat(block.first + j);
      store(block.visible + j * kSlice + v * kLanes, (Int)(start <= key) & (Int)(key < stop));
    }
  }
}

inline void intersect_dense(const AttentionProblem& p, const RowTile& tile, const Slice& slice, KeyBlock& block) {
  const int64_t key_stride = p.mask.visible_stride[3];
  const int64_t first = (p.segments[block.segment].offset + block.first) * key_stride;
  if (p.mask.visible_stride[2] == 0 && (p.mask.visible_stride[1] == 0 || tile.one_head)) {  // the same for all rows
    const uint8_t* row = visible_row(p, tile, slice.first) + first;
    for (int32_t j = 0; j < block.keys; ++j) {
      if (row[j * key_stride]) continue;
      for (int v = 0; v < slice.vectors; ++v) {
        int32_t* mask = block.visible + j * kSlice + v * kLanes;
        store(mask, load(mask) & load(tile.ignores_dense + slice.first + v * kLanes));
      }
    }
    return;
  }
  for (int lane = 0; lane < slice.rows(); ++lane) {
    if (tile.ignores_dense[slice.first + lane]) continue;
    const uint8_t* row = visible_row(p, tile, slice.first + lane) + first;
    for (int32_t j = 0; j < block.keys; ++j)
      block.visible[j * kSlice + lane] &= -static_cast<int32_t>(row[j * key_stride] != 0);
  }
}

inline TileClass classify_mask(const Slice& slice, const KeyBlock& block) {
  Int seen = splat(0), all = splat(-1);
  for (int32_t j = 0; j < block.keys; ++j) {
    for (int v = 0; v < slice.vectors; ++v) {
      const Int visible = load(block.visible + j * kSlice + v * kLanes);
      seen |= visible;
      all &= visible;
    }
  }
  return !any(seen) ? TileClass::kSkip : any(~all) ? TileClass::kPartial : TileClass::kFull;
}

// ---- bias ----

/// Bias of one row for keys [key, key + keys) of the concatenated axis.
inline void bias_row(const AttentionProblem& p, int64_t batch, int64_t head, int64_t query, int64_t key, int64_t keys,
                     float* to) {
  const BiasView& bias = p.bias;
  const int64_t* s = bias.stride[0];
  const int64_t row = batch * s[0] + head * s[1] + query * s[2];
  if (bias.kind == BiasKind::kDense) {
    if (s[3] == 1) {
      widen_run(at(bias.part[0], bias.dtype[0], row + key), bias.dtype[0], keys, 1.0f, to);
    } else {
      for (int64_t j = 0; j < keys; ++j) {
        widen_run(at(bias.part[0], bias.dtype[0], row + (key + j) * s[3]), bias.dtype[0], 1, 1.0f, to + j);
      }
    }
  } else if (bias.kind == BiasKind::kRelative) {
    const int64_t first = head * s[1] + key - query + bias.zero;
    widen_run(at(bias.part[0], bias.dtype[0], first), bias.dtype[0], keys, 1.0f, to);
  } else {
    const int64_t* t = bias.stride[1];
    const int64_t width = bias.size[1][3];
    const int64_t row_w = batch * t[0] + head * t[1] + query * t[2];
    for (int64_t j = 0; j < keys; ++j) {
      float h, w;
      widen_run(at(bias.part[0], bias.dtype[0], row + (key + j) / width * s[3]), bias.dtype[0], 1, 1.0f, &h);
      widen_run(at(bias.part[1], bias.dtype[1], row_w + (key + j) % width * t[3]), bias.dtype[1], 1, 1.0f, &w);
      to[j] = h + w;
    }
  }
}

/// Fills block.bias; where a bias of -inf hides a pair, the block becomes partial.
inline void fill_bias(const AttentionProblem& p, const RowTile& tile, const Slice& slice, KeyBlock& block) {
  const int64_t key = p.segments[block.segment].offset + block.first;
  const int64_t columns = round_up(block.keys, kLanes);
  alignas(64) float rows[kSlice * kBlockKeys];
  const bool same =
      p.bias.kind == BiasKind::kDense && p.bias.stride[0][2] == 0 && (p.bias.stride[0][1] == 0 || tile.one_head);
  for (int lane = 0; lane < slice.rows(); ++lane) {
    float* row = rows + lane * kBlockKeys;
    if (same && lane > 0) {
      memcpy(row, rows, static_cast<size_t>(columns) * sizeof(float));
      continue;
    }
    bias_row(p, tile.sequence.batch, tile.head[slice.first + lane], tile.query[slice.first + lane], key, block.keys,
             row);
    for (int64_t j = block.keys; j < columns; ++j) row[j] = 0.0f;
  }
  transpose(rows, kBlockKeys, slice.rows(), columns, block.bias, kSlice);

  Int hidden = splat(0);
  for (int32_t i = 0; i < block.keys * slice.vectors; ++i) {
    const int32_t j = i / slice.vectors * kSlice + i % slice.vectors * kLanes;
    hidden |= (Int)(load(block.bias + j) == splat(-INFINITY));
  }
  if (!any(hidden)) return;
  if (block.tile_class == TileClass::kFull) fill_visible(tile, slice, block);
  block.tile_class = TileClass::kPartial;
  for (int32_t i = 0; i < block.keys * slice.vectors; ++i) {
    const int32_t j = i / slice.vectors * kSlice + i % slice.vectors * kLanes;
    store(block.visible + j, load(block.visible + j) & (Int)(load(block.bias + j) != splat(-INFINITY)));
  }
}

/// Classifies keys [first, first + keys) of the tile's current segment for one slice; kSkip touches nothing else.
inline TileClass prepare_block(const AttentionProblem& p, const RowTile& tile, const Slice& slice, int segment,
                               int32_t first, int32_t keys, KeyBlock& block) {
  block.segment = segment;
  block.first = first;
  block.keys = keys;
  block.tile_class =
      classify_tile(tile.start + slice.first, tile.stop + slice.first, slice.rows(), first, first + keys);
  if (block.tile_class == TileClass::kSkip) return TileClass::kSkip;
  if (block.tile_class == TileClass::kPartial || p.mask.visible) fill_visible(tile, slice, block);
  if (p.mask.visible) {
    intersect_dense(p, tile, slice, block);
    block.tile_class = classify_mask(slice, block);
    if (block.tile_class == TileClass::kSkip) return TileClass::kSkip;
  }
  if (p.bias.kind != BiasKind::kNone) fill_bias(p, tile, slice, block);
  return block.tile_class;
}

// ---- logits and dropout ----

/// Raw products -> logits in place, [key][row] with kRowStride. `slope` (may be nullptr) receives d logit / d product.
inline void finish_logits(const AttentionProblem& p, const Slice& slice, const KeyBlock& block, float* logits,
                          float* slope) {
  const bool has_bias = p.bias.kind != BiasKind::kNone, partial = block.tile_class == TileClass::kPartial;
  if (p.softcap == 0.0f && !has_bias && !partial) return;
  for (int32_t j = 0; j < block.keys; ++j) {
    for (int v = 0; v < slice.vectors; ++v) {
      float* at_logit = logits + j * kRowStride + v * kLanes;
      const int at_block = j * kSlice + v * kLanes;
      Float logit = load(at_logit);
      if (p.softcap != 0.0f) {
        const Float t = hyperbolic_tangent(logit * splat(1.0f / p.softcap));
        logit = t * splat(p.softcap);
        if (slope) store(slope + j * kRowStride + v * kLanes, splat(1.0f) - t * t);
      }
      if (has_bias) logit = logit + load(block.bias + at_block);
      if (partial) logit = select(load(block.visible + at_block), logit, splat(-INFINITY));
      store(at_logit, logit);
    }
  }
}

/// keep[key][row] = 1/(1-p) or 0, from Philox counters (key / 4, query, head, batch), word key % 4.
inline void fill_dropout(const AttentionProblem& p, const RowTile& tile, const Slice& slice, const KeyBlock& block,
                         float* keep) {
  const Dropout& d = p.dropout;
  const int64_t first = p.segments[block.segment].offset + block.first + d.offset[3];
  for (int v = 0; v < slice.vectors; ++v) {
    const Word query = (Word)load(tile.query + slice.first + v * kLanes) + splat(static_cast<uint32_t>(d.offset[2]));
    const Word head = (Word)load(tile.head + slice.first + v * kLanes) + splat(static_cast<uint32_t>(d.offset[1]));
    const Word batch = splat(static_cast<uint32_t>(tile.sequence.batch + d.offset[0]));
    for (int64_t group = first / 4; group * 4 < first + block.keys; ++group) {
      const PhiloxBlock<Word> random =
          philox4x32<Word>({{splat(static_cast<uint32_t>(group)), query, head, batch}}, d.key0, d.key1);
      for (int w = 0; w < 4; ++w) {
        const int64_t j = group * 4 + w - first;
        if (j < 0 || j >= block.keys) continue;
        const Int kept = (Int)(random.word[w] >= splat(d.threshold));
        store(keep + j * kRowStride + v * kLanes, select(kept, splat(d.keep_scale), splat(0.0f)));
      }
    }
  }
}

MMK_NAMESPACE_END
