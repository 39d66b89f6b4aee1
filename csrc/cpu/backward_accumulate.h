// From the probabilities and logit gradients of a tile to sums: dq of the tile, dk and dv of its keys, bias strips.
//
// Every pass goes through accumulate_tile, with the targets it wants. The chains of additions are the same whichever
// passes run: dq over keys in chunks, dk and dv over rows in order.
#pragma once

#include "backward_bias.h"

MMK_NAMESPACE_BEGIN

/// Where the sums go; nullptr: not wanted.
struct Targets {
  float *query = nullptr, *query_chunk = nullptr;  // [feature][row] of the tile: total, and the chunk under way
  float *key = nullptr, *value = nullptr;          // [key - first_key][feature], features padded to whole vectors
  int64_t first_key = 0;                           // on the concatenated axis
  BiasPart bias[2];
  float* strip[2] = {nullptr, nullptr};  // with a row axis: [row of the tile][entry]
};

inline void add_chunk(const AttentionProblem& p, const RowTile& tile, const Targets& to) {
  for (int64_t d = 0; d < p.dim_qk; ++d) {
    for (int r = 0; r < tile.padded; r += kLanes) {
      float *total = to.query + d * kRowStride + r, *chunk = to.query_chunk + d * kRowStride + r;
      store(total, load(total) + load(chunk));
      store(chunk, splat(0.0f));
    }
  }
}

/// target[key][feature] += weights[key][row] rows[row][feature] over rows [first, first + count) of the tile.
inline void add_keys(int32_t keys, int first, int count, const float* weights, const float* rows, int64_t dim,
                     const int32_t* visible, float* target) {
  const int64_t stride = round_up(dim, kLanes);
  const int vectors = static_cast<int>(stride / kLanes);
  const float *a = weights + first, *b = rows + first * stride;
  if (visible) {
    gemm_isolated_rows(keys, vectors, a, kRowStride, visible, kSlice, b, stride, count, target, stride);
  } else {
    gemm<Start::kAccumulate, Layout::kRows>(keys, vectors, a, kRowStride, b, stride, count, target, stride);
  }
}

inline void add_products(const AttentionProblem& p, const RowTile& tile, int32_t keys, int64_t key, int first,
                         int vectors, const int32_t* visible, BackwardScratch& scratch, const Targets& to) {
  const float* ds = scratch.grad_logits + first;
  const Staged& k = scratch.staged_key;
  if (to.query && visible) {
    gemm_isolated(p.dim_qk, vectors, k.data, k.stride, ds, kRowStride, visible, kSlice, keys, to.query_chunk + first,
                  kRowStride);
  } else if (to.query) {
    gemm<Start::kAccumulate, Layout::kTransposed>(p.dim_qk, vectors, k.data, k.stride, ds, kRowStride, keys,
                                                  to.query_chunk + first, kRowStride);
  }
  const int count = smaller(vectors * kLanes, tile.rows - first);
  const int64_t offset = key - to.first_key;
  if (to.key) {
    add_keys(keys, first, count, scratch.grad_logits, scratch.query_rows, p.dim_qk, visible,
             to.key + offset * round_up(p.dim_qk, kLanes));
  }
  if (to.value) {
    add_keys(keys, first, count, scratch.logits, scratch.grad_rows, p.dim_v, visible,
             to.value + offset * round_up(p.dim_v, kLanes));
  }
}

/// Adds what the rows of the tile and the keys of the range give to each other.
inline void accumulate_tile(const AttentionProblem& p, RowTile& tile, const KeyRange& range, const Statistics& stats,
                            BackwardScratch& scratch, const Targets& to) {
  const bool products = to.query || to.key || to.value;
  bool loaded = false;
  int rows_finite = -1, keys_finite = -1;      // not looked at yet
  int pending_first = 0, pending_vectors = 0;  // slices whose products wait, to be multiplied in one go
  int64_t chunk = -1;
  int segment = -1;
  const auto flush = [&](int s, int64_t first, int32_t keys) {
    if (!pending_vectors) return;
    add_products(p, tile, keys, p.segments[s].offset + first, pending_first, pending_vectors, nullptr, scratch, to);
    pending_vectors = 0;
  };
  const auto visit = [&](const Slice& slice, const KeyBlock& block) {
    if (!loaded) load_rows(p, tile, scratch, stats);
    loaded = true;
    if (to.query && (block.segment != segment || block.first / kChunkKeys != chunk)) {
      if (chunk >= 0) add_chunk(p, tile, to);
      segment = block.segment;
      chunk = block.first / kChunkKeys;
    }
    backward_step(p, tile, slice, block, scratch);
    for (int part = 0; part < 2; ++part) {
      if (!to.strip[part]) continue;
      const BiasPart& owner = to.bias[part];
      add_slice(p, tile, slice, block, scratch, owner,
                [&](int r) { return to.strip[part] + (owner.has_rows ? r * owner.entries : 0); });
    }
    if (!products) return;
    if (p.softcap != 0.0f) apply_slope(slice, block, scratch);
    bool isolate = false;
    if (block.tile_class == TileClass::kPartial) {
      if (rows_finite < 0) rows_finite = scratch.rows_are_finite(p, tile);
      if (keys_finite < 0) {
        keys_finite = !has_non_finite(scratch.staged_key.data, scratch.staged_key.stride, block.keys, p.dim_qk);
      }
      isolate = !rows_finite || !keys_finite;
    }
    if (isolate || (pending_vectors && pending_first + pending_vectors * kLanes != slice.first)) {
      flush(block.segment, block.first, block.keys);
    }
    if (isolate) {
      add_products(p, tile, block.keys, p.segments[block.segment].offset + block.first, slice.first, slice.vectors,
                   block.visible, scratch, to);
    } else {
      if (!pending_vectors) pending_first = slice.first;
      pending_vectors += slice.vectors;
    }
  };
  for_each_block(p, tile, range, scratch, visit, [&](int s, int64_t first, int32_t keys) {
    flush(s, first, keys);
    keys_finite = -1;
  });
  if (to.query && chunk >= 0) add_chunk(p, tile, to);
}

inline void clear(float* p, int64_t floats) { memset(p, 0, static_cast<size_t>(floats) * sizeof(float)); }

/// dq = scale * the tile's sums, to the rows of grad_query.
inline void write_query(const AttentionProblem& p, const RowTile& tile, const float* dq, BackwardScratch& scratch) {
  alignas(64) float factor[kBlockRows];
  for (float& f : factor) f = p.scale;
  unpack_rows(dq, factor, tile, p.dim_qk, p.grad_query, scratch.query_rows);
}

/// Sums of keys or values, to the rows of their gradient.
inline void write_keys(const TensorView& grad, int64_t batch, int64_t head, int64_t row, int32_t keys, int64_t dim,
                       const float* from) {
  for (int32_t j = 0; j < keys; ++j) {
    narrow_run(from + j * round_up(dim, kLanes), dim, const_cast<char*>(row_of(grad, batch, head, row + j)),
               grad.dtype);
  }
}

MMK_NAMESPACE_END
