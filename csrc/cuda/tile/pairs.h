// The pairs of a tile of query rows and a segment of keys: where the keys are, what a row sees of them, what is added to a
// logit. The forward and the passes of the backward that own query rows share it.
#pragma once

#include "../../core/lane.h"
#include "scores.h"

MMK_NAMESPACE_BEGIN

/// Keys and values of a segment, of the head and sequence of a place.
template <class T>
struct KeySource {
  Rows<T> keys, values;
  int length, offset;
};
template <class T>
MMK_DEVICE KeySource<T> key_source(const AttentionCall& call, const Place& place, int s) {
  const AttentionProblem& p = call.problem;
  const Segment& segment = call.segments[s];
  const int head = place.head / static_cast<int>(p.heads_q / p.heads_k);
  return {Rows<T>::of(rows_of<T>(segment.key, place.batch, head, place.key_first), segment.key.row, p.dim_qk),
          Rows<T>::of(rows_of<T>(segment.value, place.batch, head, place.key_first), segment.value.row, p.dim_v),
          segment_length(call, place, s), static_cast<int>(segment.offset)};
}

/// A query row in shared memory, and what it sees of the present segment.
struct alignas(16) SeenRow {
  int head, query;  // head -1: no such row
  Interval sees;

  MMK_DEVICE bool exists() const { return head >= 0; }
};

/// Whether the call's dense mask is to be read.
MMK_DEVICE bool has_dense_mask(const MaskView& m) {
  return m.visible != nullptr && (m.exact == nullptr || load(global<uint8_t>(static_cast<const void*>(m.exact))) == 0);
}

/// What is added to the logit of a row and key `local` of a segment that starts at key `offset`: -inf where masked.
MMK_DEVICE float addend_of(const AttentionProblem& p, bool dense_mask, int batch, const SeenRow& row,
                           const RowBias& bias, int offset, int local) {
  if (local < row.sees.start || local >= row.sees.stop) return -INFINITY;
  const int key = offset + local;
  if (dense_mask) {
    const int64_t (&stride)[4] = p.mask.visible_stride;
    const int64_t at = batch * stride[0] + row.head * stride[1] +
                       nearest_index(row.query, p.mask.visible_size[2]) * stride[2] +
                       nearest_index(key, p.mask.visible_size[3]) * stride[3];
    if (load(global<uint8_t>(static_cast<const void*>(p.mask.visible)) + at) == 0) return -INFINITY;
  }
  return p.bias.kind == BiasKind::kNone ? 0.0f : bias_at(p.bias, bias, key);
}
MMK_DEVICE RowBias bias_of(const AttentionProblem& p, int batch, const SeenRow& row) {
  if (p.bias.kind == BiasKind::kNone || !row.exists()) return {};
  return row_bias(p.bias, batch, row.head, row.query);
}

/// The logit of a product with a key, before the addend, and its derivative by the scaled product.
struct Capped {
  float logit, slope;
};
MMK_DEVICE Capped capped(const AttentionProblem& p, float s) {
  const float x = s * p.scale;
  if (p.softcap == 0.0f) return {x, 1.0f};
  const float t = LaneOps<float>::hyperbolic_tangent(x / p.softcap);
  return {p.softcap * t, fused(-t, t, 1.0f)};
}

MMK_NAMESPACE_END
