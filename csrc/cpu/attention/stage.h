// Rows of an attention's tensors: where they stand, and in scratch.
#pragma once

#include "../../core/attention_problem.h"
#include "../memory.h"

MMK_NAMESPACE_BEGIN

/// The (batch, head, row) vector of a tensor.
inline const char* row_of(const TensorView& t, int64_t batch, int64_t head, int64_t row) {
  return at(t.data, t.dtype, batch * t.batch + head * t.head + row * t.row);
}

/// What the matrix products of a call multiply. A scale of 0 must reach the query: a product of pairs may overflow first.
inline Element element_of(const AttentionProblem& p) {
  const bool pairs = kBfloat16Pairs && p.query.dtype == DType::kBFloat16 && p.scale != 0.0f;
  return pairs ? Element::kPair : Element::kFloat;
}

/// Whether rows can be multiplied where they stand.
inline bool stands_in_place(Element element, const TensorView& t, const char* first, int64_t columns) {
  if (element == Element::kFloat) return t.dtype == DType::kFloat32;
  return columns % 2 == 0 && t.row % 2 == 0 && reinterpret_cast<uintptr_t>(first) % sizeof(float) == 0;
}

/// Rows in place where they can and `may` be multiplied there, else `width` elements of each in `buffer`.
inline Staged stage_rows(Element element, const TensorView& t, int64_t batch, int64_t head, int64_t row, int64_t rows,
                         int64_t columns, bool may, int64_t width, float* buffer) {
  const char* first = row_of(t, batch, head, row);
  if (may && stands_in_place(element, t, first, columns)) {
    return {reinterpret_cast<const float*>(first), t.row / numbers_in(element)};
  }
  for (int64_t r = 0; r < rows; ++r) {
    read_row(element, first + r * t.row * element_size(t.dtype), t.dtype, columns, 1.0f, width, buffer + r * width);
  }
  return {buffer, width};
}

/// Rows of keys or values: in place where that is possible and the tile is short, else in `buffer`.
inline Staged stage(Element element, const TensorView& t, int64_t batch, int64_t head, int64_t row, int64_t rows,
                    int64_t columns, bool short_tile, float* buffer) {
  // A copy costs little against many query rows and spares the cache the conflicts of large power-of-two strides.
  return stage_rows(element, t, batch, head, row, rows, columns, short_tile || t.row == columns,
                    elements(element, columns), buffer);
}

/// Rows whose length is a whole number of vectors: in place where they are so already, else in `buffer`.
inline Staged stage_whole(Element element, const TensorView& t, int64_t batch, int64_t head, int64_t row, int64_t rows,
                          int64_t columns, float* buffer) {
  const int64_t width = elements(element, columns);
  return stage_rows(element, t, batch, head, row, rows, columns, width % kLanes == 0, round_up(width, kLanes), buffer);
}

/// Rows in pairs of rows, without what stands in place.
inline Staged stage_pairs(const TensorView& t, int64_t batch, int64_t head, int64_t row, int64_t rows, int64_t columns,
                          int64_t width, float* buffer) {
  for (int64_t r = 0; r < rows; r += 2) {
    const char* low = r + 1 < rows ? row_of(t, batch, head, row + r + 1) : nullptr;
    pair_rows(row_of(t, batch, head, row + r), low, columns, width, buffer + r / 2 * width);
  }
  return {buffer, width};
}

/// Asks for rows before they are needed.
inline void prefetch_rows(const TensorView& t, int64_t batch, int64_t head, int64_t row, int64_t rows,
                          int64_t columns) {
  const int64_t stride = t.row * element_size(t.dtype);
  const char* first = row_of(t, batch, head, row);
  for (int64_t r = 0; r < rows; ++r) prefetch_run(first + r * stride, columns * element_size(t.dtype));
}

/// The same for a block of keys and their values, where rows stand apart: what follows each other the processor sees.
inline void prefetch_next(const AttentionProblem& p, const Segment& segment, int64_t batch, int64_t head, int64_t row,
                          int64_t rows) {
  if (segment.key.row != p.dim_qk) prefetch_rows(segment.key, batch, head, row, rows, p.dim_qk);
  if (segment.value.row != p.dim_v) prefetch_rows(segment.value, batch, head, row, rows, p.dim_v);
}

MMK_NAMESPACE_END
