// The two products of few query rows: with keys and values as they stand in their tensors, transposed, widened or paired in
// registers, or of more rows with keys that were transposed into scratch. The chains are those of the micro-kernel (gemm.h).
#pragma once

#include "key_block.h"

MMK_NAMESPACE_BEGIN
namespace few {

constexpr int kFewRows = kLanes / 2;  // beyond that, lanes that are rows are used well enough
constexpr int kKeyStride = kBlockKeys + 16;

/// Rows whose products leave registers for keys and values. Keys in fp32 reach the micro-kernel, which serves more rows
/// better, by one transposition; others would be widened or paired in scratch too.
constexpr int rows_in_registers(DType keys) { return keys == DType::kFloat32 ? kFewRows / 2 : kFewRows; }

inline int64_t row_width(const AttentionProblem& p) { return round_up(p.dim_v, kLanes); }

struct Scratch {
  float *query, *wide;   // rows of elements of features
  float* keys;           // [element of features][key]
  float* values;         // [element of keys][feature]
  float *logits, *keep;  // [row][key]
  float* factor;         // one vector: a lane is a row
  int32_t visible[kFewRows * kBlockKeys];

  static int64_t floats(const AttentionProblem& p) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    return kFewRows * (p.dim_qk + 2 * kKeyStride) + dk * kKeyStride + 2 * kLanes * dk + kBlockKeys * dv + kLanes +
           7 * 16;
  }
  Scratch(const AttentionProblem& p, Arena& arena) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    query = arena.take(kFewRows * p.dim_qk);
    wide = arena.take(2 * kLanes * dk);
    keys = arena.take(dk * kKeyStride);
    values = arena.take(kBlockKeys * dv);
    logits = arena.take(kFewRows * kKeyStride);
    keep = arena.take(kFewRows * kKeyStride);
    factor = arena.take(kLanes);
  }
};

// ---- operands ----

inline void load_query(const AttentionProblem& p, const RowTile& tile, Scratch& scratch) {
  const int64_t width = elements(element_of(p), p.dim_qk);
  for (int r = 0; r < tile.rows; ++r) {
    read_row(element_of(p), row_of(p.query, tile, r), p.query.dtype, p.dim_qk, p.scale, width,
             scratch.query + r * width);
  }
}

/// kLanes keys from `row` on as rows of whole vectors; what lies beyond the last of `count` is 0 and never visible.
inline Staged load_keys(const AttentionProblem& p, Element element, const Segment& segment, const RowTile& tile,
                        int64_t row, int32_t count, Scratch& scratch) {
  const int64_t width = round_up(elements(element, p.dim_qk), kLanes);
  const Staged k =
      stage_whole(element, segment.key, tile.sequence.tensor_batch, tile.head_k, row, count, p.dim_qk, scratch.wide);
  if (count == kLanes) return k;
  float* whole = scratch.wide + kLanes * width;
  for (int32_t j = 0; j < kLanes; ++j) {
    for (int64_t d = 0; d < width; d += kLanes) {
      store(whole + j * width + d, j < count ? load(k.data + j * k.stride + d) : splat(0.0f));
    }
  }
  return {whole, width};
}

// ---- logits ----

constexpr int64_t kStep = 16;  // elements of the keys between two requests for the next ones

/// Rows of the next block, asked for some at a time: a burst of requests would wait for itself.
struct Ahead {
  const char* rows;
  int64_t stride, bytes, some, count;  // bytes between rows, of a row; rows at a time, in all

  Ahead(const TensorView& t, const RowTile& tile, int64_t row, int64_t columns, int64_t some, int64_t count)
      : rows(row_of(t, tile.sequence.tensor_batch, tile.head_k, row)),
        stride(t.row * element_size(t.dtype)),
        bytes(columns * element_size(t.dtype)),
        some(some),
        count(count) {}
  /// The requests of one step of many.
  MMK_ALWAYS_INLINE void ask(int64_t step) const {
    const int64_t end = smaller((step + 1) * some, count);
    for (int64_t r = step * some; r < end; ++r) prefetch_run(rows + r * stride, bytes);
  }
};

/// logits[row][key] = q k of kLanes keys a group, whose columns never leave the registers. `ahead(step)` runs between
/// steps of kStep elements. Elements of a row are read in fours.
template <int rows, int groups, Element element, DType from, class Request>
inline void multiply_columns(const float* query, int64_t depth, const char* keys, int64_t stride, float factor,
                             float* logits, const Request& ahead) {
  constexpr int64_t kSize = from == DType::kFloat32 ? 4 : 2;
  Float sum[rows][groups];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int g = 0; g < groups; ++g) sum[r][g] = splat(0.0f);
  }
  for (int64_t d = 0; d < depth; d += 4) {
    if (d % kStep == 0) ahead(d / kStep);
    Float column[groups][4];
#pragma GCC unroll 2
    for (int g = 0; g < groups; ++g) {
      load_four_columns<from>(keys + g * kLanes * stride + d * kSize, stride, column[g]);
    }
    const auto add = [&](int i) {
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const Float left = splat(query[r * depth + d + i]);
#pragma GCC unroll 2
        for (int g = 0; g < groups; ++g) sum[r][g] = multiply_add_elements<element>(left, column[g][i], sum[r][g]);
      }
    };
    if (d + 4 <= depth) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) add(i);
    } else {
      for (int i = 0; i < depth - d; ++i) add(i);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int g = 0; g < groups; ++g) store(logits + r * kKeyStride + g * kLanes, sum[r][g] * splat(factor));
  }
}

template <int rows, int groups, Element element, DType from, class Request>
inline void multiply_columns_of(int count, const float* query, int64_t depth, const char* keys, int64_t stride,
                                float factor, float* logits, const Request& ahead) {
  if constexpr (rows > 0) {
    if (count == rows) {
      multiply_columns<rows, groups, element, from>(query, depth, keys, stride, factor, logits, ahead);
    } else {
      multiply_columns_of<rows - 1, groups, element, from>(count, query, depth, keys, stride, factor, logits, ahead);
    }
  }
}

/// Logits of a block before bias and mask, of few rows: keys where they stand, in groups of `groups` vectors and then of
/// one, the last ones through scratch. Decoding is bound by memory: the next block of keys and of values is asked for on
/// the way.
template <Element element, DType from, int groups>
inline void multiply_block(const AttentionProblem& p, const Segment& segment, const RowTile& tile, int64_t row,
                           int32_t keys, bool in_place, Scratch& scratch) {
  const int64_t depth = elements(element, p.dim_qk), batch = tile.sequence.tensor_batch;
  const float factor = element == Element::kPair ? p.scale : 1.0f;
  constexpr int most = rows_in_registers(element == Element::kPair ? DType::kBFloat16 : from);
  for (int32_t first = 0; first < keys;) {
    const bool several = in_place && first + groups * kLanes <= keys;
    const int32_t count = several ? groups * kLanes : smaller(kLanes, keys - first);
    const int64_t next = row + first + kBlockKeys, some = ceil_div(count, ceil_div(depth, kStep));
    const Ahead keys_ahead(segment.key, tile, next, p.dim_qk, some, count);
    const Ahead values_ahead(segment.value, tile, next, p.dim_v, some, count);
    const auto ahead = [&](int64_t step) {
      keys_ahead.ask(step);
      values_ahead.ask(step);
    };
    float* logits = scratch.logits + first;
    const char* k = row_of(segment.key, batch, tile.head_k, row + first);
    const int64_t stride = segment.key.row * element_size(segment.key.dtype);
    if (several) {
      multiply_columns_of<most, groups, element, from>(tile.rows, scratch.query, depth, k, stride, factor, logits,
                                                       ahead);
    } else if (in_place && count == kLanes) {
      multiply_columns_of<most, 1, element, from>(tile.rows, scratch.query, depth, k, stride, factor, logits, ahead);
    } else {
      const Staged staged = load_keys(p, element, segment, tile, row + first, count, scratch);
      multiply_columns_of<most, 1, element, DType::kFloat32>(
          tile.rows, scratch.query, depth, reinterpret_cast<const char*>(staged.data),
          staged.stride * static_cast<int64_t>(sizeof(float)), factor, logits, ahead);
    }
    first += count;
  }
}

/// The same for the types of the call.
inline void multiply_in_registers(const AttentionProblem& p, const Segment& segment, const RowTile& tile, int64_t row,
                                  int32_t keys, Scratch& scratch) {
  const Element element = element_of(p);
  const bool whole = elements(element, p.dim_qk) % 4 == 0;
  if constexpr (kBfloat16Pairs) {
    if (element == Element::kPair) {
      const bool in_place =
          whole && stands_in_place(element, segment.key,
                                   row_of(segment.key, tile.sequence.tensor_batch, tile.head_k, row), p.dim_qk);
      return multiply_block<Element::kPair, DType::kFloat32, 2>(p, segment, tile, row, keys, in_place, scratch);
    }
  }
  switch (segment.key.dtype) {
    case DType::kFloat32:
      return multiply_block<Element::kFloat, DType::kFloat32, 2>(p, segment, tile, row, keys, whole, scratch);
    case DType::kBFloat16:
      return multiply_block<Element::kFloat, DType::kBFloat16, 1>(p, segment, tile, row, keys, whole, scratch);
    case DType::kFloat16:
      return multiply_block<Element::kFloat, DType::kFloat16, 1>(p, segment, tile, row, keys, whole, scratch);
  }
}

/// The same of more rows, where the micro-kernel's accumulators are worth the way of the keys through scratch.
inline void multiply_in_scratch(const AttentionProblem& p, const Segment& segment, const RowTile& tile, int64_t row,
                                int32_t keys, Scratch& scratch) {
  const Element element = element_of(p);
  const int64_t depth = elements(element, p.dim_qk), width = round_up(depth, kLanes);
  for (int32_t first = 0; first < keys; first += kLanes) {
    const Staged k = load_keys(p, element, segment, tile, row + first, smaller(kLanes, keys - first), scratch);
    transpose(k.data, k.stride, kLanes, width, scratch.keys + first, kKeyStride);
  }
  multiply_query(p, element, tile.rows, static_cast<int>(ceil_div(keys, kLanes)), scratch.query, depth, scratch.keys,
                 kKeyStride, scratch.logits, kKeyStride);
}

// ---- output ----

/// One vector of the values of an element of keys, as products want it.
template <Element element, DType from>
MMK_ALWAYS_INLINE Float load_value(const char* values, int64_t stride, int64_t k) {
  const auto half = [&](int64_t row) { return *reinterpret_cast<const HalfUnaligned*>(values + row * stride); };
  if constexpr (element == Element::kPair) return pair(half(2 * k), half(2 * k + 1));
  return widen(half(k), from);
}

/// acc[row][feature] = acc * factor[row] + weights[row][element of keys] values, for `vectors` vectors of features.
template <int rows, int vectors, Element element, DType from>
inline void add_vectors(const float* weights, int64_t depth, const char* values, int64_t stride, const float* factor,
                        float* acc, int64_t width) {
  Float sum[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[r][v] = load(acc + r * width + v * kLanes) * splat(factor[r]);
  }
  for (int64_t k = 0; k < depth; ++k) {
    Float value[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) value[v] = load_value<element, from>(values + 2 * v * kLanes, stride, k);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Float left = splat(weights[r * kKeyStride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[r][v] = multiply_add_elements<element>(left, value[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(acc + r * width + v * kLanes, sum[r][v]);
  }
}

template <int rows, Element element, DType from>
inline void add_rows(int count, const float* weights, int64_t depth, const char* values, int64_t stride,
                     const float* factor, float* acc, int64_t width) {
  constexpr int kVectors = (kLanes == 16 ? 4 : 2) / (rows > 4 ? 2 : 1);  // sums in half of the registers
  if constexpr (rows > 0) {
    if (count != rows) {
      add_rows<rows - 1, element, from>(count, weights, depth, values, stride, factor, acc, width);
      return;
    }
    int64_t d = 0;
    for (; d + kVectors * kLanes <= width; d += kVectors * kLanes) {
      add_vectors<rows, kVectors, element, from>(weights, depth, values + 2 * d, stride, factor, acc + d, width);
    }
    for (; d < width; d += kLanes) {
      add_vectors<rows, 1, element, from>(weights, depth, values + 2 * d, stride, factor, acc + d, width);
    }
  }
}

/// acc = acc * factor + weights values of a block, where values are of 16 bits and fill whole vectors and elements; false
/// where they are not, and nothing was done.
inline bool add_values(Element element, const TensorView& t, const char* values, int32_t keys, int64_t dim, int rows,
                       const float* weights, const float* factor, float* acc, int64_t width) {
  if (t.dtype == DType::kFloat32 || dim != width || keys % numbers_in(element)) return false;
  const int64_t stride = t.row * element_size(t.dtype), depth = elements(element, keys);
  if constexpr (kBfloat16Pairs) {
    if (element == Element::kPair) {
      add_rows<kFewRows, Element::kPair, DType::kBFloat16>(rows, weights, depth, values, stride, factor, acc, width);
      return true;
    }
  }
  const auto add = t.dtype == DType::kBFloat16 ? add_rows<kFewRows, Element::kFloat, DType::kBFloat16>
                                               : add_rows<kFewRows, Element::kFloat, DType::kFloat16>;
  add(rows, weights, depth, values, stride, factor, acc, width);
  return true;
}

}  // namespace few
MMK_NAMESPACE_END
