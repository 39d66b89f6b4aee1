// Attention forward of a tile of few query rows: lanes are keys in the logits, and features in the output.
//
// Where lanes are rows, one query row fills one lane in 8 or 16. Here keys are transposed,
//   s[row][key] = q kT,  row max, p = exp(s - max),  acc[row][feature] = acc * exp(old - new) + p v
// by the products of few_products.h. Every logit, sum and output element is the same chain of operations as where lanes are
// rows (gemm.h, many_rows.h), so a row's bits do not tell which way it went.
#pragma once

#include "few_products.h"
#include "state.h"

MMK_NAMESPACE_BEGIN
namespace few {

// ---- visibility, bias, dropout: as in key_block.h, with keys in the lanes ----

inline void fill_visible(const AttentionProblem& p, const RowTile& tile, const KeyBlock& block, Scratch& scratch) {
  const int64_t key_stride = p.mask.visible_stride[3];
  for (int r = 0; r < tile.rows; ++r) {
    int32_t* to = scratch.visible + r * kBlockKeys;
    const Int start = splat(tile.start[r]), stop = splat(tile.stop[r]);
    for (int32_t j = 0; j < block.keys; j += kLanes) {
      const Int key = splat(block.first + j) + lane_indices();
      store(to + j, (Int)(start <= key) & (Int)(key < stop));
    }
    if (!p.mask.visible || tile.ignores_dense[r]) continue;
    const uint8_t* row = visible_row(p, tile, r) + (p.segments[block.segment].offset + block.first) * key_stride;
    int32_t j = 0;
    for (; key_stride == 1 && j + kLanes <= block.keys; j += kLanes) {
      store(to + j, load(to + j) & (Int)(load_bytes(row + j) != splat(0)));
    }
    for (; j < block.keys; ++j) to[j] &= -static_cast<int32_t>(row[j * key_stride] != 0);
  }
}

inline TileClass classify(const RowTile& tile, const KeyBlock& block, const Scratch& scratch) {
  bool seen = false, all = true;
  for (int r = 0; r < tile.rows; ++r) {
    for (int32_t j = 0; j < block.keys; ++j) {
      const bool visible = scratch.visible[r * kBlockKeys + j] != 0;
      seen |= visible;
      all &= visible;
    }
  }
  return !seen ? TileClass::kSkip : all ? TileClass::kFull : TileClass::kPartial;
}

/// Fills scratch.visible where `block` is not whole or not full, and classifies; kSkip touches neither keys nor values.
inline TileClass prepare(const AttentionProblem& p, const RowTile& tile, int segment, int32_t first, int32_t keys,
                         KeyBlock& block, Scratch& scratch) {
  block.segment = segment;
  block.first = first;
  block.keys = keys;
  block.tile_class = classify_tile(tile.start, tile.stop, tile.rows, first, first + keys);
  if (block.tile_class == TileClass::kSkip) return TileClass::kSkip;
  if (block.tile_class == TileClass::kPartial || p.mask.visible || keys % kLanes) fill_visible(p, tile, block, scratch);
  if (p.mask.visible) block.tile_class = classify(tile, block, scratch);
  return block.tile_class;
}

/// Raw products -> logits in place; a bias of -inf makes the block partial.
inline void finish_logits(const AttentionProblem& p, const RowTile& tile, KeyBlock& block, Scratch& scratch) {
  const bool has_bias = p.bias.kind != BiasKind::kNone;
  bool select_visible = block.tile_class == TileClass::kPartial || block.keys % kLanes;
  alignas(64) float bias[kBlockKeys];
  for (int r = 0; r < tile.rows; ++r) {
    float* s = scratch.logits + r * kKeyStride;
    int32_t* visible = scratch.visible + r * kBlockKeys;
    if (has_bias) {
      const int64_t key = p.segments[block.segment].offset + block.first;
      bias_row(p, tile.sequence.batch, tile.head[r], tile.query[r], key, block.keys, bias);
      for (int32_t j = block.keys; j < round_up(block.keys, kLanes); ++j) bias[j] = 0.0f;
      bool hidden = false;
      for (int32_t j = 0; j < block.keys; ++j) hidden |= bias[j] == -INFINITY;
      if (hidden) {
        if (!select_visible) fill_visible(p, tile, block, scratch);
        for (int32_t j = 0; j < block.keys; ++j) visible[j] &= -static_cast<int32_t>(bias[j] != -INFINITY);
        select_visible = true;
        block.tile_class = TileClass::kPartial;
      }
    }
    for (int32_t j = 0; j < block.keys; j += kLanes) {
      Float logit = load(s + j);
      if (p.softcap != 0.0f) logit = hyperbolic_tangent(logit * splat(1.0f / p.softcap)) * splat(p.softcap);
      if (has_bias) logit = logit + load(bias + j);
      if (select_visible) logit = select(load(visible + j), logit, splat(-INFINITY));
      store(s + j, logit);
    }
  }
}

inline void fill_dropout(const AttentionProblem& p, const RowTile& tile, const KeyBlock& block, Scratch& scratch) {
  const Dropout& d = p.dropout;
  const int64_t first = p.segments[block.segment].offset + block.first + d.offset[3];
  const SplitWord batch = split(splat(static_cast<uint32_t>(tile.sequence.batch + d.offset[0])));
  for (int r = 0; r < tile.rows; ++r) {
    const SplitWord query = split(splat(static_cast<uint32_t>(tile.query[r] + d.offset[2])));
    const SplitWord head = split(splat(static_cast<uint32_t>(tile.head[r] + d.offset[1])));
    for (int64_t j = 0; j < kBlockKeys; j += kLanes) store(scratch.keep + r * kKeyStride + j, splat(0.0f));
    for (int64_t group = first / 4; group * 4 < first + block.keys; group += kLanes) {
      const Word key = splat(static_cast<uint32_t>(group)) + (Word)lane_indices();
      const PhiloxBlock<SplitWord> random = philox4x32<SplitWord>({{split(key), query, head, batch}}, d.key0, d.key1);
      for (int w = 0; w < 4; ++w) {
        const Word word = join(random.word[w]);
        for (int lane = 0; lane < kLanes; ++lane) {
          const int64_t j = (group + lane) * 4 + w - first;
          if (j < 0 || j >= block.keys) continue;
          scratch.keep[r * kKeyStride + j] = word[lane] >= d.threshold ? d.keep_scale : 0.0f;
        }
      }
    }
  }
}

// ---- softmax ----

/// Logits -> probabilities in place; sums in four chains by key index, as where lanes are rows.
inline void softmax_block(const AttentionProblem& p, const RowTile& tile, const KeyBlock& block, Scratch& scratch,
                          const State& state) {
  const int32_t columns = static_cast<int32_t>(round_up(block.keys, kLanes));
  alignas(64) float block_max[kLanes], block_sum[kLanes];
  store(block_max, splat(-INFINITY));
  for (int r = 0; r < tile.rows; ++r) {
    const float* s = scratch.logits + r * kKeyStride;
    Float most = splat(-INFINITY);
    for (int32_t j = 0; j < columns; j += kLanes) most = maximum(load(s + j), most);
    block_max[r] = horizontal_maximum(most);
  }
  const Float old_max = load(state.row_max), new_max = maximum(load(block_max), old_max), shift = safe_shift(new_max);
  const Float shrink = softmax_weight(old_max - shift);

  store(block_sum, splat(0.0f));
  for (int r = 0; r < tile.rows; ++r) {
    float* s = scratch.logits + r * kKeyStride;
    const Float down = splat(shift[r]);
    for (int32_t j = 0; j < columns; j += kLanes) store(s + j, softmax_weight(load(s + j) - down));
    block_sum[r] = sum_in_four_chains(s, columns);
    if (!p.dropout.active) continue;
    for (int32_t j = 0; j < columns; j += kLanes) {
      store(s + j, load(s + j) * load(scratch.keep + r * kKeyStride + j));
    }
  }
  store(state.row_sum, multiply_add(load(state.row_sum), shrink, load(block_sum)));
  store(state.row_max, new_max);
  store(scratch.factor, shrink);
}

/// Probabilities [row][key] -> [row][pair of keys] in place, rounded to bf16; beyond the last key they are 0.
inline void pair_keys(const RowTile& tile, int32_t keys, Scratch& scratch) {
  for (int r = 0; r < tile.rows; ++r) {
    float* s = scratch.logits + r * kKeyStride;
    for (int32_t j = 0; j < keys; j += 2 * kLanes) {
      const Float second = j + kLanes < keys ? load(s + j + kLanes) : splat(0.0f);
      store(s + j / 2, pair_neighbours(load(s + j), second));
    }
  }
}

// ---- one chunk, the merge of chunks, the output ----

inline void reset(const AttentionProblem& p, const RowTile& tile, const State& state) {
  store(state.row_max, splat(-INFINITY));
  store(state.row_sum, splat(0.0f));
  memset(state.acc, 0, static_cast<size_t>(tile.rows * row_width(p)) * sizeof(float));
}

/// The state of `chunk` alone, for every row of the tile. Returns whether any row saw a key.
inline bool attend(const AttentionProblem& p, RowTile& tile, const Chunk& chunk, KeyBlock& block, Scratch& scratch,
                   const State& state) {
  const Segment& segment = p.segments[chunk.segment];
  const int64_t width = row_width(p), batch = tile.sequence.tensor_batch;
  const int vectors = static_cast<int>(width / kLanes);
  const Element element = element_of(p);
  load_intervals(p, chunk.segment, tile);
  bool started = false;
  for (int32_t first = chunk.first; first < chunk.last; first += kBlockKeys) {
    const int32_t keys = smaller(kBlockKeys, chunk.last - first);
    if (prepare(p, tile, chunk.segment, first, keys, block, scratch) == TileClass::kSkip) continue;
    if (!started) reset(p, tile, state);
    started = true;
    const int64_t row = tile.sequence.first_key + first;
    const bool in_registers = tile.rows <= rows_in_registers(segment.key.dtype);
    const auto multiply = in_registers ? multiply_in_registers : multiply_in_scratch;
    multiply(p, segment, tile, row, keys, scratch);
    finish_logits(p, tile, block, scratch);
    if (p.dropout.active) fill_dropout(p, tile, block, scratch);
    softmax_block(p, tile, block, scratch, state);
    if (element == Element::kPair) pair_keys(tile, keys, scratch);

    if (block.tile_class == TileClass::kFull && in_registers &&
        add_values(element, segment.value, row_of(segment.value, batch, tile.head_k, row), keys, p.dim_v, tile.rows,
                   scratch.logits, scratch.factor, state.acc, width)) {
      continue;
    }
    const Staged v = element == Element::kPair
                         ? stage_pairs(segment.value, batch, tile.head_k, row, keys, p.dim_v, width, scratch.values)
                         : stage_whole(element, segment.value, batch, tile.head_k, row, keys, p.dim_v, scratch.values);
    const int64_t depth = elements(element, keys);
    if (block.tile_class == TileClass::kPartial && has_non_finite(element, v.data, v.stride, depth, p.dim_v)) {
      for (int r = 0; r < tile.rows; ++r) {
        for (float* a = state.acc + r * width; a < state.acc + (r + 1) * width; a += kLanes) {
          store(a, load(a) * splat(scratch.factor[r]));
        }
      }
      gemm_isolated_rows(element, tile.rows, vectors, scratch.logits, kKeyStride, scratch.visible, kBlockKeys, v.data,
                         v.stride, 0, keys, state.acc, width);
    } else {
      gemm<Start::kRescaleRows, Layout::kRows>(element, tile.rows, vectors, scratch.logits, kKeyStride, v.data,
                                               v.stride, depth, state.acc, width, scratch.factor);
    }
  }
  return started;
}

/// total = chunk, where no chunk came before.
inline void copy(const AttentionProblem& p, const RowTile& tile, const State& total, const State& chunk) {
  memcpy(total.acc, chunk.acc, static_cast<size_t>(tile.rows * row_width(p)) * sizeof(float));
  store(total.row_max, load(chunk.row_max));
  store(total.row_sum, load(chunk.row_sum));
}

/// total = merge(total, chunk), in place.
inline void merge(const AttentionProblem& p, const RowTile& tile, const State& total, const State& chunk) {
  const Merge<Float> m = merge_factors(load(total.row_max), load(chunk.row_max));
  store(total.row_max, m.row_max);
  store(total.row_sum, merged(m, load(total.row_sum), load(chunk.row_sum)));
  for (int r = 0; r < tile.rows; ++r) {
    const Merge<Float> row = {m.row_max, splat(m.factor_a[r]), splat(m.factor_b[r])};
    for (int64_t e = r * row_width(p); e < (r + 1) * row_width(p); e += kLanes) {
      store(total.acc + e, merged(row, load(total.acc + e), load(chunk.acc + e)));
    }
  }
}

inline void finish(const AttentionProblem& p, const RowTile& tile, const State& total, Scratch& scratch) {
  normalise(p, tile, total, scratch.factor);
  const int64_t width = row_width(p);
  for (int r = 0; r < tile.rows; ++r) {
    float* row = total.acc + r * width;
    for (int64_t d = 0; d < width; d += kLanes) store(row + d, load(row + d) * splat(scratch.factor[r]));
    narrow_run(row, p.dim_v, const_cast<char*>(row_of(p.out, tile, r)), p.out.dtype);
  }
}

}  // namespace few
MMK_NAMESPACE_END
