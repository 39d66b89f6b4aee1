// The step that every pass of the backward shares: probabilities and logit gradients of one slice against one block.
#pragma once

#include <initializer_list>

#include "key_block.h"

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

/// One block of keys and values, which it is: (first key, segment, head, batch), and the first key that a tile sees.
struct StagedBlock {
  float *keys, *values, *pairs_of_keys;
  Staged key{nullptr, 0}, value{nullptr, 0};  // [key][element of features]
  Staged key_by_keys{nullptr, 0};             // [element of keys][feature], from stage_by_keys
  int64_t which[4] = {-1, -1, -1, -1};
  int32_t count = 0, skipped = 0;  // keys of the block; of them those before the first seen

  Staged seen_keys() const { return behind(key, skipped); }
  Staged seen_values() const { return behind(value, skipped); }
};

/// p (dropped) or ds of one block of keys as products want it. Floats stand where they were computed; see pair_weights.
struct Weights {
  float* by_keys;  // [element of keys][row]
  float* by_rows;  // [key][element of rows]
  int64_t by_rows_stride;
};

/// The memory of a pass for one block of keys at a time.
struct BlockScratch {
  float *logits, *grad_logits;  // [key][row]: after backward_step p (dropped), ds
  float *slope, *keep;          // softcap's derivative, dropout
  Weights probabilities, grads;
  StagedBlock staged;
  KeyBlock block;

  static int64_t floats(const AttentionProblem& p) {
    const int64_t pairs = element_of(p) == Element::kPair ? kBlockKeys * kRowStride + kBlockKeys / 2 * p.dim_qk : 0;
    return 4 * kBlockKeys * kRowStride + kBlockKeys * (p.dim_qk + p.dim_v) + pairs + 9 * 16;
  }
  BlockScratch(const AttentionProblem& p, Arena& arena) {
    for (float** tile_memory : {&logits, &grad_logits, &slope, &keep})
      *tile_memory = arena.take(kBlockKeys * kRowStride);
    staged.keys = arena.take(kBlockKeys * p.dim_qk);
    staged.values = arena.take(kBlockKeys * p.dim_v);
    probabilities = {logits, logits, kRowStride};
    grads = {grad_logits, grad_logits, kRowStride};
    if (element_of(p) == Element::kFloat) return;
    staged.pairs_of_keys = arena.take(kBlockKeys / 2 * p.dim_qk);
    for (Weights* weights : {&probabilities, &grads}) {
      weights->by_rows_stride = kRowStride / 2;
      weights->by_rows = arena.take(kBlockKeys * weights->by_rows_stride);
    }
  }
};

/// A tile of rows under way: its operands, its statistics, and what was found out about it.
struct TileScratch {
  float *query_rows, *grad_rows;  // [element of rows][feature]: q (times scale, if floats), do
  float *query, *grad;            // [element of features][row]
  float *delta, *shift, *factor;  // of the rows
  RowTile tile;
  bool loaded, rescaled;  // operands are there; some row's factor is not 1
  int rows_finite;        // -1: not looked at yet
  int segment;            // of the chunk of keys whose dq is under way
  int64_t chunk;          // -1: none

  static int64_t floats(const AttentionProblem& p) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes), wide = larger(dk, dv);
    return kBlockRows * (wide + dv) + (dk + dv) * kRowStride + 3 * kRowStride + 7 * 16;
  }
  TileScratch(const AttentionProblem& p, Arena& arena) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    query_rows = arena.take(kBlockRows * larger(dk, dv));
    grad_rows = arena.take(kBlockRows * dv);
    query = arena.take(dk * kRowStride);
    grad = arena.take(dv * kRowStride);
    for (float** row_memory : {&delta, &shift, &factor}) *row_memory = arena.take(kRowStride);
    begin();
  }
  /// Forgets the tile before.
  void begin() {
    loaded = rescaled = false;
    rows_finite = segment = -1;
    chunk = -1;
  }
  bool rows_are_finite(const AttentionProblem& p) const {
    const Element element = element_of(p);
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes), rows = elements(element, tile.rows);
    return !has_non_finite(element, query_rows, dk, rows, p.dim_qk) &&
           !has_non_finite(element, grad_rows, dv, rows, p.dim_v);
  }
};

/// What a pass over one tile at a time needs.
struct BackwardScratch {
  TileScratch rows;
  BlockScratch keys;
  static int64_t floats(const AttentionProblem& p) { return TileScratch::floats(p) + BlockScratch::floats(p); }
  BackwardScratch(const AttentionProblem& p, Arena& arena) : rows(p, arena), keys(p, arena) {}
};

/// Packs q and do of the tile, both ways, and the statistics of its rows; rows beyond the end get p = 0.
inline void load_rows(const AttentionProblem& p, TileScratch& scratch, const Statistics& stats) {
  const RowTile& tile = scratch.tile;
  const Element element = element_of(p);
  pack_rows(element, p.query, tile, p.dim_qk, p.scale, scratch.query_rows, scratch.query);
  pack_rows(element, p.grad_out, tile, p.dim_v, 1.0f, scratch.grad_rows, scratch.grad);
  if (element == Element::kPair) {
    pack_row_pairs(p.query, tile, p.dim_qk, scratch.query_rows);
    pack_row_pairs(p.grad_out, tile, p.dim_v, scratch.grad_rows);
  }
  scratch.loaded = true;
  for (int r = 0; r < tile.padded; ++r) {
    const bool real = r < tile.rows;
    const int64_t i = Statistics::index(p, tile.sequence, tile.head[r], tile.query[r]);
    scratch.delta[r] = real ? stats.delta[i] : 0.0f;
    scratch.shift[r] = real ? stats.shift[i] : INFINITY;
    scratch.factor[r] = real ? stats.factor[i] : 1.0f;
    scratch.rescaled |= scratch.factor[r] != 1.0f;
  }
}

/// Keys [first, last) of segments [segment, last_segment).
struct KeyRange {
  int segment, last_segment;
  int64_t first, last;
};

inline KeyRange all_keys(const AttentionProblem& p) { return {0, p.num_segments, 0, INT64_MAX}; }

/// Brings keys and values of one block into scratch, unless they are there already.
inline void stage_block(const AttentionProblem& p, const RowTile& tile, int segment, int64_t first, int32_t keys,
                        StagedBlock& staged) {
  const Sequence& sequence = tile.sequence;
  const int64_t wanted[4] = {sequence.first_key + first, segment, tile.head_k, sequence.tensor_batch};
  if (!memcmp(wanted, staged.which, sizeof wanted)) return;
  memcpy(staged.which, wanted, sizeof wanted);
  const Element element = element_of(p);
  const TensorView &key = p.segments[segment].key, &value = p.segments[segment].value;
  const int64_t batch = sequence.tensor_batch, head = tile.head_k, row = wanted[0];
  const bool short_tile = tile.padded <= 2 * kLanes;
  staged.count = keys;
  staged.key = stage(element, key, batch, head, row, keys, p.dim_qk, short_tile, staged.keys);
  staged.value = stage(element, value, batch, head, row, keys, p.dim_v, short_tile, staged.values);
  staged.key_by_keys = element == Element::kPair ? Staged{nullptr, 0} : staged.key;
  const int64_t next = first + keys, left = segment_length(p, sequence, segment) - next;
  prefetch_next(p, p.segments[segment], batch, head, row + keys, smaller<int64_t>(kBlockKeys, left));
}

/// The keys of the staged block, from the first seen on, for the product over keys, which only dq asks for.
inline Staged stage_by_keys(const AttentionProblem& p, StagedBlock& staged) {
  if (!staged.key_by_keys.data) {
    const int64_t row = staged.which[0], segment = staged.which[1], head = staged.which[2], batch = staged.which[3];
    staged.key_by_keys =
        stage_pairs(p.segments[segment].key, batch, head, row, staged.count, p.dim_qk, p.dim_qk, staged.pairs_of_keys);
  }
  return behind(staged.key_by_keys, elements(element_of(p), staged.skipped));
}

/// For every block of the range in order, as far as the tile sees its keys: visit(slice, block) for each slice of the tile
/// that sees any, with the keys and values staged, then leave(segment, first, keys) if there was one.
template <class Visit, class Leave>
inline void for_each_block(const AttentionProblem& p, RowTile& tile, const KeyRange& range, BlockScratch& scratch,
                           const Visit& visit, const Leave& leave) {
  for (int s = range.segment; s < range.last_segment; ++s) {
    const int64_t last = smaller(range.last, segment_length(p, tile.sequence, s));
    load_intervals(p, s, tile);
    for (int64_t first = range.first; first < last; first += kBlockKeys) {
      const int32_t keys = static_cast<int32_t>(smaller<int64_t>(kBlockKeys, last - first));
      const KeySpan span = visible_span(p, tile, 0, tile.padded, static_cast<int32_t>(first), keys);
      bool seen = false;
      for (int i = 0; i < tile.slices(); ++i) {
        const Slice slice = tile.slice(i);
        if (prepare_block(p, tile, slice, s, span, scratch.block) == TileClass::kSkip) continue;
        if (!seen) {
          stage_block(p, tile, s, first, keys, scratch.staged);
          scratch.staged.skipped = span.first - static_cast<int32_t>(first);
        }
        seen = true;
        visit(slice, scratch.block);
      }
      if (seen) leave(s, span.first, span.keys);
    }
  }
}

/// With q, do and the statistics of the tile loaded: scratch.logits = p after dropout, scratch.grad_logits = gradient of
/// the logits, both 0 where a pair is hidden. With a softcap, scratch.slope = d logit / d product.
inline void backward_step(const AttentionProblem& p, const TileScratch& rows, const Slice& slice,
                          BlockScratch& scratch) {
  const Staged k = scratch.staged.seen_keys(), v = scratch.staged.seen_values();
  const KeyBlock& block = scratch.block;
  float *logits = scratch.logits + slice.first, *grads = scratch.grad_logits + slice.first;
  float *slope = scratch.slope + slice.first, *keep = scratch.keep + slice.first;
  const Element element = element_of(p);
  multiply_query(p, element, block.keys, slice.vectors, k.data, k.stride, rows.query + slice.first, kRowStride, logits,
                 kRowStride);
  gemm<Start::kZero, Layout::kRows>(element, block.keys, slice.vectors, v.data, v.stride, rows.grad + slice.first,
                                    kRowStride, elements(element, p.dim_v), grads, kRowStride);
  finish_logits(p, slice, block, logits, slope);
  if (p.dropout.active) fill_dropout(p, rows.tile, slice, block, keep);
  const bool partial = block.tile_class == TileClass::kPartial;
  for (int v_lane = 0; v_lane < slice.rows(); v_lane += kLanes) {
    const int row = slice.first + v_lane;
    const Float delta = load(rows.delta + row), shift = load(rows.shift + row), factor = load(rows.factor + row);
    for (int32_t j = 0; j < block.keys; ++j) {
      const int64_t at_pair = j * kRowStride + v_lane;
      Float probability = softmax_weight(load(logits + at_pair) - shift);
      if (rows.rescaled) probability = probability * factor;
      Float grad = load(grads + at_pair), dropped = probability;
      if (p.dropout.active) {
        const Float kept = load(keep + at_pair);
        grad = multiply_add(grad, kept, -delta);
        dropped = probability * kept;
      } else {
        grad = grad - delta;
      }
      grad = probability * grad;
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

/// ds through the softcap: gradient of the logits -> gradient of the products q k.
inline void apply_slope(const Slice& slice, BlockScratch& scratch) {
  const KeyBlock& block = scratch.block;
  for (int32_t j = 0; j < block.keys; ++j) {
    for (int row = slice.first; row < slice.first + slice.rows(); row += kLanes) {
      float* grad = scratch.grad_logits + j * kRowStride + row;
      const Float slope = load(scratch.slope + j * kRowStride + row), ds = load(grad);
      store(grad, select((Int)(ds == splat(0.0f)), ds, ds * slope));  // a hidden pair stays 0 beside a NaN slope
    }
  }
}

/// Weights [key][row] of one slice -> [key][pair of rows], rounded to bf16. A slice of one vector fills half of one, and
/// with zeros what the next slice or the padding follows with.
inline void pair_by_rows(const Slice& slice, int32_t keys, const Weights& weights) {
  static_assert(kRowStride / 2 >= kBlockRows / 2 + kLanes / 2, "room for the zeros of the last slice");
  for (int32_t j = 0; j < keys; ++j) {
    const float* from = weights.by_keys + j * kRowStride + slice.first;
    float* to = weights.by_rows + j * weights.by_rows_stride + slice.first / 2;
    for (int v = 0; v < slice.vectors; v += 2) {
      const Float second = v + 1 < slice.vectors ? load(from + (v + 1) * kLanes) : splat(0.0f);
      store(to + v / 2 * kLanes, pair_neighbours(load(from + v * kLanes), second));
    }
  }
}

MMK_NAMESPACE_END
