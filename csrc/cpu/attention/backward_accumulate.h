// From the probabilities and logit gradients of a tile to sums: dq of the tile, dk and dv of its keys, bias strips.
//
// Every pass goes through accumulate_tile, with the targets it wants. The chains of additions are the same whichever
// passes run: dq over keys in chunks of 512, dk and dv over rows in chunks of 256 queries of one head.
#pragma once

#include "backward_bias.h"

MMK_NAMESPACE_BEGIN

constexpr int64_t kKeyChunkRows = 256;  // a longer fp32 chain of terms of one sign drifts

/// Where the sums go; nullptr: not wanted.
struct Targets {
  float *query = nullptr, *query_chunk = nullptr;      // [feature][row] of the tile: total, and the chunk under way
  float *key = nullptr, *value = nullptr;              // [key - first_key][feature], features padded to whole vectors
  float *key_chunk = nullptr, *value_chunk = nullptr;  // the same as key and value where there is but one chunk
  int64_t* chunk_of = nullptr;                         // per block of keys: which rows its chunks hold
  int64_t first_key = 0;                               // on the concatenated axis
  int64_t first_block = 0;                             // index of the first block in chunk_of, as block_index counts
  BiasPart bias[2];
  float* strip[2] = {nullptr, nullptr};  // with a row axis: [row of the tile][entry]
};

/// dq of a tile, [feature][row].
inline int64_t query_floats(const AttentionProblem& p) { return round_up(p.dim_qk, kLanes) * kRowStride; }

inline void add_chunk(const AttentionProblem& p, const RowTile& tile, const Targets& to) {
  for (int64_t d = 0; d < p.dim_qk; ++d) {
    for (int r = 0; r < tile.padded; r += kLanes) {
      float *total = to.query + d * kRowStride + r, *chunk = to.query_chunk + d * kRowStride + r;
      store(total, load(total) + load(chunk));
      store(chunk, splat(0.0f));
    }
  }
}

/// target[key][feature] += weights[key][row] rows[row][feature] over rows [first, last) of the tile. `visible`, where a
/// row must not meet every key, starts at the first row.
inline void add_keys(Element element, int32_t keys, int first, int last, const Weights& weights, const float* rows,
                     int64_t dim, const int32_t* visible, float* target) {
  const int64_t stride = round_up(dim, kLanes), numbers = numbers_in(element);
  const int vectors = static_cast<int>(stride / kLanes);
  const auto add_one_by_one = [&](int64_t begin, int64_t end) {
    gemm_isolated_rows(element, keys, vectors, weights.by_rows, weights.by_rows_stride, visible, kSlice, rows, stride,
                       begin, end, target, stride);
  };
  if (visible) return add_one_by_one(first, last);
  // the other row of two that share an element may be of another head or chunk
  const int64_t begin = smaller<int64_t>(round_up(first, numbers), last), end = larger(begin, last / numbers * numbers);
  add_one_by_one(first, begin);
  if (begin < end) {
    gemm<Start::kAccumulate, Layout::kRows>(element, keys, vectors, weights.by_rows + begin / numbers,
                                            weights.by_rows_stride, rows + begin / numbers * stride, stride,
                                            (end - begin) / numbers, target, stride);
  }
  add_one_by_one(end, last);
}

/// Every block of every segment has its own index, also where segments end within 64 keys.
inline int64_t block_index(const AttentionProblem& p, int segment, int64_t first) {
  return p.segments[segment].offset / kBlockKeys + segment + first / kBlockKeys;
}

/// The chunk of rows that a row belongs to: counted along its own head's queries, whatever the tile.
inline int64_t row_chunk(const AttentionProblem& p, const RowTile& tile, int r) {
  return (tile.sequence.batch * p.heads_q + tile.head[r]) << 24 | tile.query[r] / kKeyChunkRows;
}

/// Adds what the chunks of one block hold to its totals; the chunks are empty afterwards.
inline void add_key_chunk(const AttentionProblem& p, int32_t keys, int64_t offset, const Targets& to) {
  const int64_t width[2] = {round_up(p.dim_qk, kLanes), round_up(p.dim_v, kLanes)};
  float *const total[2] = {to.key, to.value}, *const chunk[2] = {to.key_chunk, to.value_chunk};
  for (int i = 0; i < 2; ++i) {
    if (!total[i]) continue;
    for (int64_t e = offset * width[i]; e < (offset + keys) * width[i]; e += kLanes) {
      store(total[i] + e, load(total[i] + e) + load(chunk[i] + e));
      store(chunk[i] + e, splat(0.0f));
    }
  }
}

/// Adds the chunks of every block, at the end.
inline void add_key_chunks(const AttentionProblem& p, int64_t keys, const Targets& to) {
  add_key_chunk(p, static_cast<int32_t>(keys), 0, to);
}

inline void add_products(const AttentionProblem& p, const TileScratch& rows, int segment, int64_t first_key,
                         int32_t keys, int first, int vectors, const int32_t* visible, BlockScratch& scratch,
                         const Targets& to) {
  const RowTile& tile = rows.tile;
  const Element element = element_of(p);
  if (to.query) {
    const float* ds = scratch.grads.by_keys + first;
    const Staged k = stage_by_keys(p, scratch.staged);
    if (visible) {
      gemm_isolated(element, p.dim_qk, vectors, k.data, k.stride, ds, kRowStride, visible, kSlice, keys,
                    to.query_chunk + first, kRowStride);
    } else {
      gemm<Start::kAccumulate, Layout::kTransposed>(element, p.dim_qk, vectors, k.data, k.stride, ds, kRowStride,
                                                    elements(element, keys), to.query_chunk + first, kRowStride);
    }
  }
  if (!to.key && !to.value) return;
  const int64_t before = first_key % kBlockKeys;  // keys of the block that the tile does not see
  const int64_t offset = p.segments[segment].offset + first_key - to.first_key;
  int64_t& current = to.chunk_of[block_index(p, segment, first_key) - to.first_block];
  const int last = smaller(first + vectors * kLanes, tile.rows);
  for (int begin = first; begin < last;) {  // runs of rows of one chunk
    const int64_t chunk = row_chunk(p, tile, begin);
    int end = last;
    while (row_chunk(p, tile, end - 1) != chunk) --end;  // rows are in order of their chunks
    if (chunk != current && current >= 0) add_key_chunk(p, scratch.staged.count, offset - before, to);
    current = chunk;
    const int32_t* seen = visible ? visible + (begin - first) : nullptr;
    if (to.key) {
      add_keys(element, keys, begin, end, scratch.grads, rows.query_rows, p.dim_qk, seen,
               to.key_chunk + offset * round_up(p.dim_qk, kLanes));
    }
    if (to.value) {
      add_keys(element, keys, begin, end, scratch.probabilities, rows.grad_rows, p.dim_v, seen,
               to.value_chunk + offset * round_up(p.dim_v, kLanes));
    }
    begin = end;
  }
}

/// p and ds of one slice in pairs, for the products that are wanted. ds by keys replaces what it is made from.
inline void pair_weights(const Slice& slice, BlockScratch& scratch, const Targets& to) {
  const int32_t keys = scratch.block.keys;
  if (to.value) pair_by_rows(slice, keys, scratch.probabilities);
  if (to.key) pair_by_rows(slice, keys, scratch.grads);
  if (to.query) pair_keys(keys, slice.vectors, scratch.grads.by_keys + slice.first);
}

/// Adds what the rows of the tile and the keys of the range give to each other. The chunk of dq that is under way stays
/// open for the keys that follow.
inline void accumulate_keys(const AttentionProblem& p, TileScratch& rows, const KeyRange& range,
                            const Statistics& stats, BlockScratch& scratch, const Targets& to) {
  const bool products = to.query || to.key || to.value;
  int keys_finite = -1;                        // not looked at yet
  int pending_first = 0, pending_vectors = 0;  // slices whose products wait, to be multiplied in one go
  const auto flush = [&](int s, int64_t first, int32_t keys) {
    if (!pending_vectors) return;
    add_products(p, rows, s, first, keys, pending_first, pending_vectors, nullptr, scratch, to);
    pending_vectors = 0;
  };
  const auto visit = [&](const Slice& slice, const KeyBlock& block) {
    if (!rows.loaded) load_rows(p, rows, stats);
    if (to.query && (block.segment != rows.segment || block.first / kChunkKeys != rows.chunk)) {
      if (rows.chunk >= 0) add_chunk(p, rows.tile, to);
      rows.segment = block.segment;
      rows.chunk = block.first / kChunkKeys;
    }
    backward_step(p, rows, slice, scratch);
    for (int part = 0; part < 2; ++part) {
      if (!to.strip[part]) continue;
      const BiasPart& owner = to.bias[part];
      add_slice(p, rows.tile, slice, scratch, owner,
                [&](int r) { return to.strip[part] + (owner.has_rows ? r * owner.entries : 0); });
    }
    if (!products) return;
    const Element element = element_of(p);
    if (p.softcap != 0.0f) apply_slope(slice, scratch);
    if (element == Element::kPair) pair_weights(slice, scratch, to);
    bool isolate = false;
    if (block.tile_class == TileClass::kPartial) {
      const Staged k = scratch.staged.seen_keys();
      if (rows.rows_finite < 0) rows.rows_finite = rows.rows_are_finite(p);
      if (keys_finite < 0)
        keys_finite = !has_non_finite(element, k.data, k.stride, block.keys, elements(element, p.dim_qk));
      isolate = !rows.rows_finite || !keys_finite;
    }
    if (isolate || (pending_vectors && pending_first + pending_vectors * kLanes != slice.first)) {
      flush(block.segment, block.first, block.keys);
    }
    if (isolate) {
      add_products(p, rows, block.segment, block.first, block.keys, slice.first, slice.vectors, block.visible, scratch,
                   to);
    } else {
      if (!pending_vectors) pending_first = slice.first;
      pending_vectors += slice.vectors;
    }
  };
  for_each_block(p, rows.tile, range, scratch, visit, [&](int s, int64_t first, int32_t keys) {
    flush(s, first, keys);
    keys_finite = -1;
  });
}

/// After the last key of a tile.
inline void close_query(const AttentionProblem& p, const TileScratch& rows, const Targets& to) {
  if (to.query && rows.chunk >= 0) add_chunk(p, rows.tile, to);
}

/// A tile from its first key to its last.
inline void accumulate_tile(const AttentionProblem& p, const KeyRange& range, const Statistics& stats,
                            BackwardScratch& scratch, const Targets& to) {
  scratch.rows.begin();
  accumulate_keys(p, scratch.rows, range, stats, scratch.keys, to);
  close_query(p, scratch.rows, to);
}

inline void clear(float* p, int64_t floats) { memset(p, 0, static_cast<size_t>(floats) * sizeof(float)); }

/// dq = scale * the tile's sums, to the rows of grad_query.
inline void write_query(const AttentionProblem& p, const RowTile& tile, const float* dq, const TileScratch& scratch) {
  alignas(64) float factor[kBlockRows];
  for (float& f : factor) f = p.scale;
  unpack_rows(dq, factor, tile, p.dim_qk, p.grad_query, scratch.query_rows);
}

/// What dk still lacks of the scale.
inline float key_factor(const AttentionProblem& p) { return element_of(p) == Element::kPair ? p.scale : 1.0f; }

/// Sums of keys or values times the factor, to the rows of their gradient.
inline void write_keys(const TensorView& grad, int64_t batch, int64_t head, int64_t row, int32_t keys, int64_t dim,
                       float factor, float* sums) {
  constexpr int32_t kAhead = 16;  // rows: those of a packed tensor stand too far apart for the processor to foresee
  const int64_t width = round_up(dim, kLanes), last = row + keys;
  for (float* from = sums; from < sums + keys * width; from += width, ++row) {
    if (row + kAhead < last) {
      prefetch_run<true>(row_of(grad, batch, head, row + kAhead), dim * element_size(grad.dtype));
    }
    for (int64_t d = 0; d < width && factor != 1.0f; d += kLanes) store(from + d, load(from + d) * splat(factor));
    narrow_run(from, dim, const_cast<char*>(row_of(grad, batch, head, row)), grad.dtype);
  }
}

MMK_NAMESPACE_END
