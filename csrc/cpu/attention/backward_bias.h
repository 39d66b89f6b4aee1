// The gradient of one part of a bias, gathered in a strip of fp32: which elements a work item owns, and how a tile adds.
//
// A bias element belongs to one item, which visits all that reads it in a fixed order:
//   a bias with a row axis             item = (batch, head, 64 rows) of the bias; strip [row][entry]
//   without one (table, key-only)      item = (batch, head, chunk of 1024 rows); strip [entry], emptied into fp64 after
//                                      every tile of rows, chunks added in order
#pragma once

#include "backward_step.h"

MMK_NAMESPACE_BEGIN

constexpr int64_t kChunkRows = 1024;  // fixes the order of the sum over rows

struct BiasPart {
  const BiasView* bias = nullptr;
  int part = 0;
  const int64_t* size = nullptr;  // (batch, head, row, entry)
  bool has_rows = false;
  int64_t entries = 0;

  BiasPart() = default;
  BiasPart(const AttentionProblem& p, int index)
      : bias(&p.bias), part(index), size(p.bias.size[index]), has_rows(size[2] > 1), entries(size[3]) {}
  DType dtype() const { return bias->dtype[part]; }
  char* grad_at(int64_t element) const { return const_cast<char*>(at(bias->grad[part], dtype(), element)); }
};

inline float sum_of(const float* x, int64_t count) {
  const int64_t whole = count / 4 * 4;
  float sum = sum_in_four_chains(x, whole);
  for (int64_t i = whole; i < count; ++i) sum += x[i];
  return sum;
}

inline void add_run(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(to + i) + load(from + i));
  for (; i < count; ++i) to[i] += from[i];
}

/// strip[entry of key] += row[key - first] for the keys [first, first + keys) of one query row.
inline void add_row(const BiasPart& owner, int64_t query, int64_t first, int32_t keys, const float* row, float* strip) {
  const BiasView& bias = *owner.bias;
  if (bias.kind == BiasKind::kDecomposed) {
    const int64_t width = bias.size[1][3];
    for (int64_t j = 0; j < keys;) {  // keys that share their element of the first part
      const int64_t column = (first + j) % width, run = smaller<int64_t>(width - column, keys - j);
      if (owner.part == 0) {
        strip[(first + j) / width] += sum_of(row + j, run);
      } else {
        add_run(row + j, run, strip + column);
      }
      j += run;
    }
  } else if (bias.kind == BiasKind::kDense && owner.entries == 1) {
    strip[0] += sum_of(row, keys);
  } else {
    add_run(row, keys, strip + first + (bias.kind == BiasKind::kRelative ? bias.zero - query : 0));
  }
}

/// total += strip, and the strip is empty again.
inline void empty_strip(float* strip, int64_t entries, double* total) {
  for (int64_t e = 0; e < entries; ++e) {
    total[e] += strip[e];
    strip[e] = 0.0f;
  }
}

/// The total of a strip without rows, in the bias's dtype.
inline void write_total(const double* total, const BiasPart& owner, int64_t element, float* scratch) {
  for (int64_t e = 0; e < owner.entries; ++e) scratch[e] = static_cast<float>(total[e]);
  narrow_run(scratch, owner.entries, owner.grad_at(element), owner.dtype());
}

/// Adds the logit gradients of rows [slice] of the tile; `strip_of(row of the tile)` is where that row adds.
template <class StripOf>
inline void add_slice(const AttentionProblem& p, const RowTile& tile, const Slice& slice, const BlockScratch& scratch,
                      const BiasPart& owner, const StripOf& strip_of) {
  const KeyBlock& block = scratch.block;
  alignas(64) float rows[kSlice * kBlockKeys];
  const int64_t columns = round_up(block.keys, kLanes);  // beyond block.keys: what an earlier block left, never added
  transpose(scratch.grad_logits + slice.first, kRowStride, columns, slice.rows(), rows, kBlockKeys);
  const int64_t first = p.segments[block.segment].offset + block.first;
  const int last = smaller(slice.first + slice.rows(), tile.rows);
  for (int r = slice.first; r < last; ++r) {
    add_row(owner, tile.query[r], first, block.keys, rows + (r - slice.first) * kBlockKeys, strip_of(r));
  }
}

MMK_NAMESPACE_END
