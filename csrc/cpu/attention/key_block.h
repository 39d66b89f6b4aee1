// What a block of keys means to a slice of query rows: visibility, bias, logits, dropout.
//
// Lanes are query rows. Logits stand as [key][row], so that maxima, sums, intervals and Philox counters are all
// element-wise over lanes and no horizontal reduction is needed.
#pragma once

#include <cfloat>

#include "../../core/philox.h"
#include "tile.h"

MMK_NAMESPACE_BEGIN

/// What one slice of rows needs to know about one block of keys, each [key][lane of the slice].
struct KeyBlock {
  int segment;
  int32_t first, keys;  // local to the segment
  TileClass tile_class;
  int32_t visible[kBlockKeys * kSlice];  // filled iff kPartial
  float bias[kBlockKeys * kSlice];       // filled iff the problem has a bias
};

// ---- visibility ----

/// Some keys of a block, from a multiple of kSpanKeys behind its first on.
struct KeySpan {
  int32_t first, keys;
};
constexpr int32_t kSpanKeys = 4;  // a row's sum is four chains by key, and keys are multiplied in pairs

/// The keys of [first, first + keys) between the first and the last that the intervals of some rows, whole vectors of them,
/// let any of these see. What is left out are terms of weight 0: no bit depends on it, but of a bias's gradient, which
/// sums runs of keys.
inline KeySpan visible_span(const AttentionProblem& p, const RowTile& tile, int row, int rows, int32_t first,
                            int32_t keys) {
  if (!p.mask.start || p.bias.grad[0] || p.bias.grad[1]) return {first, keys};
  const int32_t last = first + keys;
  Int begins = splat(last), ends = splat(first);
  for (int r = row; r < row + rows; r += kLanes) {
    const Int start = load(tile.start + r), stop = load(tile.stop + r);
    const Int meets = (Int)(start < splat(last)) & (Int)(stop > splat(first)) & (Int)(start < stop);
    begins = select(meets & (Int)(start < begins), start, begins);
    ends = select(meets & (Int)(stop > ends), stop, ends);
  }
  int32_t begin = last, end = first;
  for (int lane = 0; lane < kLanes; ++lane) {
    begin = smaller<int32_t>(begin, begins[lane]);
    end = larger<int32_t>(end, ends[lane]);
  }
  if (begin >= end) return {first, 0};
  begin = larger(begin, first) - (larger(begin, first) - first) % kSpanKeys;
  end = first + static_cast<int32_t>(round_up(smaller(end, last) - first, numbers_in(element_of(p))));
  return {begin, smaller(end, last) - begin};  // whole pairs: a hidden key is no part of a visible one's element
}

inline void fill_visible(const RowTile& tile, const Slice& slice, KeyBlock& block) {
  for (int v = 0; v < slice.vectors; ++v) {
    const Int start = load(tile.start + slice.first + v * kLanes), stop = load(tile.stop + slice.first + v * kLanes);
    for (int32_t j = 0; j < block.keys; ++j) {
      const Int key = splat(block.first + j);
      store(block.visible + j * kSlice + v * kLanes, (Int)(start <= key) & (Int)(key < stop));
    }
  }
}

/// Rows of a dense mask whose keys stand side by side, against a whole block: what they say of all their pairs.
inline TileClass classify_dense(const AttentionProblem& p, const RowTile& tile, const Slice& slice,
                                const KeyBlock& block) {
  typedef uint8_t Line __attribute__((vector_size(kBlockKeys)));
  typedef Line LineUnaligned __attribute__((aligned(1), may_alias));
  Line seen = {}, hidden = {};
  for (int lane = 0; lane < slice.rows(); ++lane) {
    const uint8_t* row = visible_row(p, tile, slice.first + lane) + p.segments[block.segment].offset + block.first;
    const Line line = *reinterpret_cast<const LineUnaligned*>(row);
    seen |= line;
    hidden |= (Line)(line == 0);
  }
  uint64_t any_seen = 0, any_hidden = 0, word[2];
  for (size_t i = 0; i < sizeof(Line); i += sizeof(uint64_t)) {
    memcpy(&word[0], reinterpret_cast<const char*>(&seen) + i, sizeof(uint64_t));
    memcpy(&word[1], reinterpret_cast<const char*>(&hidden) + i, sizeof(uint64_t));
    any_seen |= word[0];
    any_hidden |= word[1];
  }
  return !any_seen ? TileClass::kSkip : any_hidden ? TileClass::kPartial : TileClass::kFull;
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
  alignas(64) int32_t rows[kSlice * kBlockKeys];
  const int32_t columns = static_cast<int32_t>(round_up(block.keys, kLanes));
  for (int lane = 0; lane < slice.rows(); ++lane) {
    int32_t* to = rows + lane * kBlockKeys;
    const uint8_t* row = visible_row(p, tile, slice.first + lane) + first;
    const Int ignores = splat(tile.ignores_dense[slice.first + lane]);
    int32_t j = 0;
    for (; key_stride == 1 && j + kLanes <= block.keys; j += kLanes) {
      store(to + j, (Int)(load_bytes(row + j) != splat(0)) | ignores);
    }
    for (; j < block.keys; ++j) to[j] = -static_cast<int32_t>(row[j * key_stride] != 0) | ignores[0];
    for (; j < columns; ++j) to[j] = 0;
  }
  alignas(64) float visible[kBlockKeys * kSlice];
  transpose(reinterpret_cast<const float*>(rows), kBlockKeys, slice.rows(), columns, visible, kSlice);  // only moved
  for (int32_t j = 0; j < block.keys; ++j) {
    for (int v = 0; v < slice.rows(); v += kLanes) {
      int32_t* mask = block.visible + j * kSlice + v;
      store(mask, load(mask) & (Int)load(visible + j * kSlice + v));
    }
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

/// fp16's least number becomes fp32's: beside either, a logit is lost, and a row of nothing else is uniform.
inline void widen_least(DType dtype, int64_t keys, float* bias) {
  if (dtype != DType::kFloat16) return;
  for (int64_t j = 0; j < keys; ++j) bias[j] = bias[j] == -65504.0f ? -FLT_MAX : bias[j];
}

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
    widen_least(bias.dtype[0], keys, to);
  } else if (bias.kind == BiasKind::kRelative) {
    const int64_t first = head * s[1] + key - query + bias.zero;
    widen_run(at(bias.part[0], bias.dtype[0], first), bias.dtype[0], keys, 1.0f, to);
    widen_least(bias.dtype[0], keys, to);
  } else {
    const int64_t* t = bias.stride[1];
    const int64_t width = bias.size[1][3];
    const int64_t row_w = batch * t[0] + head * t[1] + query * t[2];
    for (int64_t j = 0; j < keys;) {  // keys that share their element of the first part
      const int64_t column = (key + j) % width, run = smaller(width - column, keys - j);
      float h;
      widen_run(at(bias.part[0], bias.dtype[0], row + (key + j) / width * s[3]), bias.dtype[0], 1, 1.0f, &h);
      if (t[3] == 1) {
        widen_run(at(bias.part[1], bias.dtype[1], row_w + column), bias.dtype[1], run, 1.0f, to + j);
      } else {
        for (int64_t i = 0; i < run; ++i) {
          widen_run(at(bias.part[1], bias.dtype[1], row_w + (column + i) * t[3]), bias.dtype[1], 1, 1.0f, to + j + i);
        }
      }
      for (int64_t i = 0; i < run; ++i) to[j + i] += h;
      j += run;
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
  for (int32_t j = 0; j < block.keys * kSlice; j += kSlice) {
    for (int v = 0; v < slice.rows(); v += kLanes) hidden |= (Int)(load(block.bias + j + v) == splat(-INFINITY));
  }
  if (!any(hidden)) return;
  if (block.tile_class == TileClass::kFull) fill_visible(tile, slice, block);
  block.tile_class = TileClass::kPartial;
  for (int32_t j = 0; j < block.keys * kSlice; j += kSlice) {
    for (int at = j; at < j + slice.rows(); at += kLanes) {
      store(block.visible + at, load(block.visible + at) & (Int)(load(block.bias + at) != splat(-INFINITY)));
    }
  }
}

/// Classifies some keys of the tile's current segment for one slice; kSkip touches nothing else.
inline TileClass prepare_block(const AttentionProblem& p, const RowTile& tile, const Slice& slice, int segment,
                               const KeySpan& span, KeyBlock& block) {
  const int32_t keys = span.keys;
  block.segment = segment;
  block.first = span.first;
  block.keys = keys;
  block.tile_class =
      classify_tile(tile.start + slice.first, tile.stop + slice.first, slice.rows(), span.first, span.first + keys);
  if (block.tile_class == TileClass::kSkip) return TileClass::kSkip;
  bool dense_matters = p.mask.visible != nullptr;
  if (dense_matters && p.mask.visible_stride[3] == 1 && keys == kBlockKeys && !tile.any_ignores_dense) {
    const TileClass dense = classify_dense(p, tile, slice, block);
    if (dense == TileClass::kSkip) return block.tile_class = dense;
    if (dense == TileClass::kFull) dense_matters = false;
  }
  if (block.tile_class == TileClass::kPartial || dense_matters) fill_visible(tile, slice, block);
  if (dense_matters) {
    intersect_dense(p, tile, slice, block);
    block.tile_class = classify_mask(slice, block);
    if (block.tile_class == TileClass::kSkip) return TileClass::kSkip;
  }
  if (p.bias.kind != BiasKind::kNone) fill_bias(p, tile, slice, block);
  return block.tile_class;
}

// ---- logits and dropout ----

/// c[m][n] = products of query and key, with the scale: it is in the query where that is of floats.
inline void multiply_query(const AttentionProblem& p, Element element, int64_t rows, int vectors, const float* a,
                           int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  const int64_t depth = elements(element, p.dim_qk);
  if (element == Element::kPair) {
    gemm<Start::kScale, Layout::kRows>(element, rows, vectors, a, a_stride, b, b_stride, depth, c, c_stride, &p.scale);
  } else {
    gemm<Start::kZero, Layout::kRows>(element, rows, vectors, a, a_stride, b, b_stride, depth, c, c_stride);
  }
}

/// Scaled products -> logits in place, [key][row] with kRowStride. `slope` (may be nullptr) receives d logit / d product.
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

/// Weights [key][row] -> [pair of keys][row] in place, rounded to bf16.
inline void pair_keys(int32_t keys, int vectors, float* weights) {
  for (int32_t j = 0; j < keys; j += 2) {
    for (int v = 0; v < vectors * kLanes; v += kLanes) {
      const Float low = j + 1 < keys ? load(weights + (j + 1) * kRowStride + v) : splat(0.0f);
      store(weights + j / 2 * kRowStride + v, pair(load(weights + j * kRowStride + v), low));
    }
  }
}

/// keep[key][row] = 1/(1-p) or 0, from Philox counters (key / 4, query, head, batch), word key % 4.
inline void fill_dropout(const AttentionProblem& p, const RowTile& tile, const Slice& slice, const KeyBlock& block,
                         float* keep) {
  const Dropout& d = p.dropout;
  const int64_t first = p.segments[block.segment].offset + block.first + d.offset[3];
  for (int v = 0; v < slice.vectors; ++v) {
    const SplitWord query =
        split((Word)load(tile.query + slice.first + v * kLanes) + splat(static_cast<uint32_t>(d.offset[2])));
    const SplitWord head =
        split((Word)load(tile.head + slice.first + v * kLanes) + splat(static_cast<uint32_t>(d.offset[1])));
    const SplitWord batch = split(splat(static_cast<uint32_t>(tile.sequence.batch + d.offset[0])));
    for (int64_t group = first / 4; group * 4 < first + block.keys; ++group) {
      const PhiloxBlock<SplitWord> random =
          philox4x32<SplitWord>({{split(splat(static_cast<uint32_t>(group))), query, head, batch}}, d.key0, d.key1);
      for (int w = 0; w < 4; ++w) {
        const int64_t j = group * 4 + w - first;
        if (j < 0 || j >= block.keys) continue;
        const Int kept = (Int)(join(random.word[w]) >= splat(d.threshold));
        store(keep + j * kRowStride + v * kLanes, select(kept, splat(d.keep_scale), splat(0.0f)));
      }
    }
  }
}

MMK_NAMESPACE_END
