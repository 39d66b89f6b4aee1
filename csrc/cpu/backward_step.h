// The step that every pass of the backward shares: probabilities and logit gradients of one slice against one block.
#pragma once

#include <initializer_list>

#include "../core/softmax.h"
#include "gemm.h"
#include "parallel.h"
#include "tile.h"

MMK_NAMESPACE_BEGIN

/// Per query row, in order (batch, head, row) or, packed, (head, row): p = exp(logit - shift) * factor.
class Statistics {
 public:
  float *delta, *shift, *factor;

  explicit Statistics(const AttentionProblem& p) {
    const int64_t rows = (p.cu_q ? 1 : p.batch) * p.heads_q * p.len_q;
    delta = static_cast<float*>(std::malloc(static_cast<size_t>(larger<int64_t>(rows, 1)) * 3 * sizeof(float)));
    shift = delta + rows;
    factor = shift + rows;
  }
  ~Statistics() { std::free(delta); }
  Statistics(const Statistics&) = delete;
  Statistics& operator=(const Statistics&) = delete;

  static int64_t index(const AttentionProblem& p, const Sequence& sequence, int64_t head, int64_t query) {
    return (sequence.tensor_batch * p.heads_q + head) * p.len_q + sequence.first_row + query;
  }
};

struct BackwardScratch {
  float *query_rows, *grad_rows;        // [row][feature]: q times scale, do
  float *query, *grad;                  // [feature][row]
  float *logits, *grad_logits;          // [key][row]: afterwards p (dropped), ds
  float *slope, *keep, *keys, *values;  // softcap's derivative, dropout, staged keys and values
  float *delta, *shift, *factor;        // of the rows of the tile
  RowTile tile;
  KeyBlock block;
  bool rescaled;  // whether any row's factor is not 1

  static int64_t floats(const AttentionProblem& p) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes), wide = larger(dk, dv);
    return kBlockRows * (wide + dv) + (dk + dv) * kRowStride + 4 * kBlockKeys * kRowStride +
           kBlockKeys * (p.dim_qk + p.dim_v) + 3 * kRowStride + 256;
  }
  BackwardScratch(const AttentionProblem& p, Arena& arena) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    query_rows = arena.take(kBlockRows * larger(dk, dv));
    grad_rows = arena.take(kBlockRows * dv);
    query = arena.take(dk * kRowStride);
    grad = arena.take(dv * kRowStride);
    for (float** tile_memory : {&logits, &grad_logits, &slope, &keep}) *tile_memory = arena.take(kBlockKeys * kRowStride);
    keys = arena.take(kBlockKeys * p.dim_qk);
    values = arena.take(kBlockKeys * p.dim_v);
    for (float** row_memory : {&delta, &shift, &factor}) *row_memory = arena.take(kRowStride);
  }
  bool rows_are_finite(const AttentionProblem& p, const RowTile& rows) const {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    return !has_non_finite(query_rows, dk, rows.rows, p.dim_qk) && !has_non_finite(grad_rows, dv, rows.rows, p.dim_v);
  }
};

/// Packs q and do of the tile, both ways, and the statistics of its rows; rows beyond the end get p = 0.
inline void load_rows(const AttentionProblem& p, const RowTile& tile, BackwardScratch& scratch, const Statistics& stats) {
  pack_rows(p.query, tile, p.dim_qk, p.scale, scratch.query_rows, scratch.query);
  pack_rows(p.grad_out, tile, p.dim_v, 1.0f, scratch.grad_rows, scratch.grad);
  scratch.rescaled = false;
  for (int r = 0; r < tile.padded; ++r) {
    const bool real = r < tile.rows;
    const int64_t i = Statistics::index(p, tile.sequence, tile.head[r], tile.query[r]);
    scratch.delta[r] = real ? stats.delta[i] : 0.0f;
    scratch.shift[r] = real ? stats.shift[i] : INFINITY;
    scratch.factor[r] = real ? stats.factor[i] : 1.0f;
    scratch.rescaled |= scratch.factor[r] != 1.0f;
  }
}

/// Calls visit(slice, block, keys, values) for every visible (slice of the tile, block of keys), keys in order.
template <class Visit>
inline void for_each_key_block(const AttentionProblem& p, RowTile& tile, BackwardScratch& scratch, const Visit& visit) {
  const Sequence& sequence = tile.sequence;
  for (int s = 0; s < p.num_segments; ++s) {
    const Segment& segment = p.segments[s];
    const int64_t length = segment_length(p, sequence, s);
    load_intervals(p, s, tile);
    for (int64_t first = 0; first < length; first += kBlockKeys) {
      const int32_t keys = static_cast<int32_t>(smaller<int64_t>(kBlockKeys, length - first));
      Staged k{nullptr, 0}, v{nullptr, 0};
      for (int i = 0; i < tile.slices(); ++i) {
        const Slice slice = tile.slice(i);
        if (prepare_block(p, tile, slice, s, static_cast<int32_t>(first), keys, scratch.block) == TileClass::kSkip) {
          continue;
        }
        if (!k.data) {
          const int64_t row = sequence.first_key + first;
          const bool short_tile = tile.padded <= 2 * kLanes;
          k = stage(segment.key, sequence.tensor_batch, tile.head_k, row, keys, p.dim_qk, short_tile, scratch.keys);
          v = stage(segment.value, sequence.tensor_batch, tile.head_k, row, keys, p.dim_v, short_tile, scratch.values);
        }
        visit(slice, scratch.block, k, v);
      }
    }
  }
}

/// With q, do and the statistics of the tile loaded: scratch.logits = p after dropout, scratch.grad_logits = gradient of
/// the products q k (of the biased logits before softcap's slope when `keep_biased`), both 0 where a pair is hidden.
inline void backward_step(const AttentionProblem& p, const RowTile& tile, const Slice& slice, const KeyBlock& block,
                          const Staged& k, const Staged& v, BackwardScratch& scratch, bool keep_biased = false) {
  float *logits = scratch.logits + slice.first, *grads = scratch.grad_logits + slice.first;
  float *slope = scratch.slope + slice.first, *keep = scratch.keep + slice.first;
  gemm<Start::kZero, Layout::kRows>(block.keys, slice.vectors, k.data, k.stride, scratch.query + slice.first, kRowStride,
                                    p.dim_qk, logits, kRowStride);
  gemm<Start::kZero, Layout::kRows>(block.keys, slice.vectors, v.data, v.stride, scratch.grad + slice.first, kRowStride,
                                    p.dim_v, grads, kRowStride);
  finish_logits(p, slice, block, logits, slope);
  if (p.dropout.active) fill_dropout(p, tile, slice, block, keep);
  const bool partial = block.tile_class == TileClass::kPartial;
  const bool sloped = p.softcap != 0.0f && !keep_biased;
  for (int v_lane = 0; v_lane < slice.rows(); v_lane += kLanes) {
    const int row = slice.first + v_lane;
    const Float delta = load(scratch.delta + row), shift = load(scratch.shift + row), factor = load(scratch.factor + row);
    for (int32_t j = 0; j < block.keys; ++j) {
      const int64_t at_pair = j * kRowStride + v_lane;
      Float probability = exponential(load(logits + at_pair) - shift);
      if (scratch.rescaled) probability = probability * factor;
      Float grad = load(grads + at_pair), dropped = probability;
      if (p.dropout.active) {
        const Float kept = load(keep + at_pair);
        grad = grad * kept;
        dropped = probability * kept;
      }
      grad = probability * (grad - delta);
      if (sloped) grad = grad * load(slope + at_pair);
      if (partial) {
        const Int visible = load(block.visible + j * kSlice + v_lane);
        grad = select(visible, grad, splat(0.0f));
        dropped = select(visible, dropped, splat(0.0f));
      }
      store(logits + at_pair, dropped);
      store(grads + at_pair, grad);
    }
  }
}

/// Gradient of part 0 or 1 of the bias (attention_bias_gradient.cpp).
void bias_gradient(const AttentionProblem& p, const Threads& threads, const Statistics& stats, int part);

MMK_NAMESPACE_END
