// Attention forward of a tile of query rows: lanes are rows.
//
//   s[key][row] = k qT,  row max, p = exp(s - max),  acc[feature][row] = acc * exp(old - new) + vT p
#pragma once

#include "key_block.h"
#include "state.h"

MMK_NAMESPACE_BEGIN
namespace many {

struct Scratch {
  float *rows, *query, *logits, *keep, *keys, *values, *factor;

  static int64_t floats(const AttentionProblem& p) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    return kBlockRows * larger(dk, dv) + dk * kRowStride + 2 * kBlockKeys * kRowStride +
           kBlockKeys * (p.dim_qk + p.dim_v) + kRowStride + 7 * 16;
  }
  Scratch(const AttentionProblem& p, Arena& arena) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    rows = arena.take(kBlockRows * larger(dk, dv));
    query = arena.take(dk * kRowStride);
    logits = arena.take(kBlockKeys * kRowStride);
    keep = arena.take(kBlockKeys * kRowStride);
    keys = arena.take(kBlockKeys * p.dim_qk);
    values = arena.take(kBlockKeys * p.dim_v);
    factor = arena.take(kRowStride);
  }
};

inline void load_query(const AttentionProblem& p, const RowTile& tile, Scratch& scratch) {
  pack_rows(element_of(p), p.query, tile, p.dim_qk, p.scale, scratch.rows, scratch.query);
}

// ---- softmax ----

/// Logits -> probabilities in place; moves the rows' state and leaves in `factor` what the accumulator must shrink by.
inline void softmax_block(const AttentionProblem& p, const Slice& slice, const KeyBlock& block, float* logits,
                          const float* keep, float* row_max, float* row_sum, float* factor) {
  for (int v = 0; v < slice.vectors; ++v) {
    float* s = logits + v * kLanes;
    Float block_max[4];
    for (int i = 0; i < 4; ++i) block_max[i] = splat(-INFINITY);
    int32_t j = 0;
    for (; j + 4 <= block.keys; j += 4) {
      for (int i = 0; i < 4; ++i) block_max[i] = maximum(load(s + (j + i) * kRowStride), block_max[i]);
    }
    for (; j < block.keys; ++j) block_max[0] = maximum(load(s + j * kRowStride), block_max[0]);
    const Float old_max = load(row_max + v * kLanes);
    const Float new_max =
        maximum(maximum(maximum(block_max[0], block_max[1]), maximum(block_max[2], block_max[3])), old_max);
    const Float shift = safe_shift(new_max);
    const Float shrink = softmax_weight(old_max - shift);

    Float sum[4];  // four chains, by key index: fixed for the bits
    for (int i = 0; i < 4; ++i) sum[i] = splat(0.0f);
    for (j = 0; j + 4 <= block.keys; j += 4) {
      for (int i = 0; i < 4; ++i) {
        const Float e = softmax_weight(load(s + (j + i) * kRowStride) - shift);
        sum[i] = sum[i] + e;
        store(s + (j + i) * kRowStride, e);
      }
    }
    for (int i = 0; j < block.keys; ++j, ++i) {
      const Float e = softmax_weight(load(s + j * kRowStride) - shift);
      sum[i] = sum[i] + e;
      store(s + j * kRowStride, e);
    }
    const Float block_sum = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    store(row_sum + v * kLanes, multiply_add(load(row_sum + v * kLanes), shrink, block_sum));
    store(row_max + v * kLanes, new_max);
    store(factor + v * kLanes, shrink);
    if (!p.dropout.active) continue;
    for (j = 0; j < block.keys; ++j) {
      store(s + j * kRowStride, load(s + j * kRowStride) * load(keep + j * kRowStride + v * kLanes));
    }
  }
}

// ---- one chunk, the merge of chunks, the output ----

inline void reset(const AttentionProblem& p, const RowTile& tile, const State& state) {
  for (int r = 0; r < tile.padded; r += kLanes) {
    store(state.row_max + r, splat(-INFINITY));
    store(state.row_sum + r, splat(0.0f));
    for (int64_t d = 0; d < round_up(p.dim_v, kLanes); ++d) store(state.acc + d * kRowStride + r, splat(0.0f));
  }
}

/// The state of `chunk` alone, for every row of the tile. Returns whether any row saw a key.
inline bool attend(const AttentionProblem& p, RowTile& tile, const Chunk& chunk, KeyBlock& block, Scratch& scratch,
                   const State& state) {
  const Segment& segment = p.segments[chunk.segment];
  const Sequence& sequence = tile.sequence;
  const Element element = element_of(p);
  const bool pairs = element == Element::kPair, short_tile = tile.padded <= 2 * kLanes;
  load_intervals(p, chunk.segment, tile);
  bool started = false;
  for (int32_t first = chunk.first; first < chunk.last; first += kBlockKeys) {
    const int32_t keys = smaller(kBlockKeys, chunk.last - first);
    Staged k{nullptr, 0}, v{nullptr, 0};
    int values_finite = -1;  // not looked at yet
    for (int i = 0; i < tile.slices(); ++i) {
      const Slice slice = tile.slice(i);
      const KeySpan span = visible_span(p, tile, slice.first, slice.rows(), first, keys);
      if (prepare_block(p, tile, slice, chunk.segment, span, block) == TileClass::kSkip) continue;
      if (!k.data) {  // loaded at the first slice that sees a key of the block
        const int64_t row = sequence.first_key + first;
        const int64_t batch = sequence.tensor_batch;
        k = stage(element, segment.key, batch, tile.head_k, row, keys, p.dim_qk, short_tile, scratch.keys);
        v = pairs ? stage_pairs(segment.value, batch, tile.head_k, row, keys, p.dim_v, p.dim_v, scratch.values)
                  : stage(element, segment.value, batch, tile.head_k, row, keys, p.dim_v, short_tile, scratch.values);
        prefetch_next(p, segment, batch, tile.head_k, row + keys, smaller(kBlockKeys, chunk.last - first - keys));
      }
      if (!started) reset(p, tile, state);
      started = true;

      const float* key = behind(k, span.first - first).data;
      const float* value = behind(v, elements(element, span.first - first)).data;
      float *logits = scratch.logits + slice.first, *keep = scratch.keep + slice.first;
      multiply_query(p, element, span.keys, slice.vectors, key, k.stride, scratch.query + slice.first, kRowStride,
                     logits, kRowStride);
      finish_logits(p, slice, block, logits, nullptr);
      if (p.dropout.active) fill_dropout(p, tile, slice, block, keep);
      float* factor = scratch.factor + slice.first;
      softmax_block(p, slice, block, logits, keep, state.row_max + slice.first, state.row_sum + slice.first, factor);
      if (pairs) pair_keys(span.keys, slice.vectors, logits);

      float* acc = state.acc + slice.first;
      if (block.tile_class == TileClass::kPartial && values_finite < 0) {
        values_finite = !has_non_finite(element, v.data, v.stride, elements(element, keys), p.dim_v);
      }
      if (block.tile_class == TileClass::kFull || values_finite) {
        gemm<Start::kRescale, Layout::kTransposed>(element, p.dim_v, slice.vectors, value, v.stride, logits, kRowStride,
                                                   elements(element, span.keys), acc, kRowStride, factor);
      } else {  // NaN or Inf in values that some rows do not see
        for (int64_t d = 0; d < p.dim_v; ++d) {
          for (int w = 0; w < slice.rows(); w += kLanes) {
            float* a = acc + d * kRowStride + w;
            store(a, load(a) * load(factor + w));
          }
        }
        gemm_isolated(element, p.dim_v, slice.vectors, value, v.stride, logits, kRowStride, block.visible, kSlice,
                      span.keys, acc, kRowStride);
      }
    }
  }
  return started;
}

/// total = chunk, where no chunk came before.
inline void copy(const AttentionProblem& p, const RowTile& tile, const State& total, const State& chunk) {
  memcpy(total.acc, chunk.acc, static_cast<size_t>(round_up(p.dim_v, kLanes) * kRowStride) * sizeof(float));
  for (int r = 0; r < tile.padded; r += kLanes) {
    store(total.row_max + r, load(chunk.row_max + r));
    store(total.row_sum + r, load(chunk.row_sum + r));
  }
}

/// total = merge(total, chunk), in place; exact where either saw nothing.
inline void merge(const AttentionProblem& p, const RowTile& tile, const State& total, const State& chunk) {
  for (int r = 0; r < tile.padded; r += kLanes) {
    const Merge<Float> m = merge_factors(load(total.row_max + r), load(chunk.row_max + r));
    store(total.row_max + r, m.row_max);
    store(total.row_sum + r, merged(m, load(total.row_sum + r), load(chunk.row_sum + r)));
    for (int64_t d = 0; d < p.dim_v; ++d) {
      float* acc = total.acc + d * kRowStride + r;
      store(acc, merged(m, load(acc), load(chunk.acc + d * kRowStride + r)));
    }
  }
}

inline void finish(const AttentionProblem& p, const RowTile& tile, const State& total, Scratch& scratch) {
  normalise(p, tile, total, scratch.factor);
  unpack_rows(total.acc, scratch.factor, tile, p.dim_v, p.out, scratch.rows);
}

}  // namespace many
MMK_NAMESPACE_END
