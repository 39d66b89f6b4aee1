// Operands of a blocked product (product.h) in scratch, in the order in which the micro-kernel (gemm.h) reads them.
//
// An operand is a matrix whose rows a Reader hands out. Along: the product sums along its rows, as over the features of
// x and W in x W^T. Across: the product sums over its rows, as over the samples of dy and x in dy^T x. Either can stand
// on either side:
//
//                 left, one number broadcast            right, kPanel columns side by side
//     Along       rows as they are                      transposed
//     Across      tiles of kTileRows numbers of a row   as they are
//
// Pairs of bf16 have the earlier number in the low half, as neighbours along a row have it in memory.
//
// A Reader has
//     const float* numbers(row, first, count, buffer)   fp32 numbers [first, first + count) of a row: where they stand
//                                                       or in `buffer`
//     const uint16_t* bits(row, first)                  the same where they are bf16 in memory, or nullptr
//     void prefetch(row, first, count)                  asks for them
//     part(i)                                           the reader of part i of the axis that is summed over
#pragma once

#include "memory.h"

MMK_NAMESPACE_BEGIN

constexpr int kPanel = kTileVectors * kLanes;
constexpr int64_t kDepth = 256;                   // elements of a chain: a sum over more is a sum of chains, in order
constexpr int64_t kLeftStride = kDepth + 16;      // of staged rows: no power of two, lest they meet in one cache set
constexpr int64_t kMaxBlockColumns = 256;         // of a right operand in scratch
constexpr int64_t kReadBuffer = 4 * kDepth + 64;  // floats that a packer needs beside its result

/// The reader of rows as they stand in memory.
struct StoredRows {
  const void* data;
  DType dtype;
  int64_t stride;  // from row to row

  const StoredRows& part(int) const { return *this; }
  const float* numbers(int64_t row, int64_t first, int64_t count, float* buffer) const {
    return read_numbers(data, dtype, row * stride + first, count, buffer);
  }
  const uint16_t* bits(int64_t row, int64_t first) const {
    if (dtype != DType::kBFloat16) return nullptr;
    return static_cast<const uint16_t*>(data) + row * stride + first;
  }
  void prefetch(int64_t row, int64_t first, int64_t count) const {
    prefetch_run(at(data, dtype, row * stride + first), count * element_size(dtype));
  }
};

/// Numbers [first, first + count) along the axis that a product sums over, in part `part` of it.
struct Slice {
  int part;
  int64_t first, count;
};

/// A left operand in scratch: rows of tile t begin at data + t * tile, and `stride` has the sense of gemm()'s.
struct LeftTiles {
  const float* data;
  int64_t stride, tile;
};

/// Elements along a row: floats or pairs, where they stand or in `to`; if `whole`, 0 from the last one on up to a whole
/// number of vectors.
template <class Reader>
inline const float* read_along(Element element, const Reader& reader, int64_t row, int64_t first, int64_t count,
                               bool whole, float* to, float* buffer) {
  const int64_t filled = elements(element, count), width = whole ? round_up(filled, kLanes) : filled;
  if (element == Element::kFloat) {
    const float* numbers = reader.numbers(row, first, count, to);
    if (numbers != to && width == filled) return numbers;
    if (numbers != to) memcpy(to, numbers, static_cast<size_t>(count) * sizeof(float));
  } else if (const uint16_t* bits = reader.bits(row, first)) {
    if (width * 2 == count && reinterpret_cast<uintptr_t>(bits) % sizeof(float) == 0) {
      return reinterpret_cast<const float*>(bits);
    }
    if (count % 2) to[filled - 1] = 0.0f;
    memcpy(to, bits, static_cast<size_t>(count) * sizeof(uint16_t));
  } else {
    if (count % 2) to[filled - 1] = 0.0f;
    narrow_run(reader.numbers(row, first, count, buffer), count, to, DType::kBFloat16);
  }
  for (int64_t i = filled; i < width; ++i) to[i] = 0.0f;
  return to;
}

/// Elements across rows, one of every column: a float of row `row`, or a pair of it, in the low half, and of the next one,
/// if that is below `end`; 0 beyond `count` up to a whole number of vectors. They stand in `buffer` or in the tensor.
template <class Reader>
inline const float* read_across(Element element, const Reader& reader, int64_t row, int64_t end, int64_t first,
                                int64_t count, float* buffer) {
  const int64_t width = round_up(count, kLanes);
  const bool paired = element == Element::kPair && row + 1 < end;
  if (element == Element::kPair) {
    const uint16_t* bits = reader.bits(row, first);
    const uint16_t* next = paired ? reader.bits(row + 1, first) : nullptr;
    if (bits && (next || !paired)) {
      pair_rows(next, bits, count, width, buffer);
      return buffer;
    }
  }
  const float* one = reader.numbers(row, first, count, buffer);
  if (element == Element::kFloat) {
    if (one != buffer && width == count) return one;
    if (one != buffer) memcpy(buffer, one, static_cast<size_t>(count) * sizeof(float));
    for (int64_t i = count; i < width; ++i) buffer[i] = 0.0f;
    return buffer;
  }
  const float* two = paired ? reader.numbers(row + 1, first, count, buffer + kDepth) : nullptr;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(buffer + i, pair(two ? load(two + i) : splat(0.0f), load(one + i)));
  }
  if (i < count) {
    Float a = splat(0.0f), b = splat(0.0f);
    memcpy(&a, one + i, static_cast<size_t>(count - i) * sizeof(float));
    if (two) memcpy(&b, two + i, static_cast<size_t>(count - i) * sizeof(float));
    store(buffer + i, pair(b, a));
  }
  return buffer;
}

// Both operands have
//     stage(..., first, rows, to, buffer)             rows [first, first + rows) of the left operand, in scratch
//     pack(..., first, columns, to, buffer)           columns of the right one
//     prefetch(slice, first, count, step, steps)      asks for a part, one of `steps`, of what either will read

/// The product sums along the rows; a slice's part is told to the reader.
template <class Reader>
struct Along {
  static constexpr Layout kLeft = Layout::kRows;
  Reader reader;

  LeftTiles stage(Element element, const Slice& slice, int64_t first, int64_t rows, float* to, float* buffer) const {
    const auto& part = reader.part(slice.part);
    const size_t bytes = static_cast<size_t>(elements(element, slice.count)) * sizeof(float);
    for (int64_t r = 0; r < rows; ++r, to += kLeftStride) {
      const float* row = read_along(element, part, first + r, slice.first, slice.count, false, to, buffer);
      if (row != to) memcpy(to, row, bytes);
    }
    return {to - rows * kLeftStride, kLeftStride, kTileRows * kLeftStride};
  }

  void prefetch(const Slice& slice, int64_t first, int64_t rows, int64_t step, int64_t steps) const {
    for (int64_t r = rows * step / steps; r < rows * (step + 1) / steps; ++r) {
      reader.part(slice.part).prefetch(first + r, slice.first, slice.count);
    }
  }

  void pack(Element element, const Slice& slice, int64_t first, int64_t columns, float* to, float* buffer) const {
    const auto& part = reader.part(slice.part);
    const int64_t depth = elements(element, slice.count);
    alignas(64) float copies[kLanes * kLeftStride];
    alignas(64) float zeros[kDepth] = {};
    for (int64_t column = 0; column < columns; column += kLanes) {
      const float* rows[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) {
        rows[r] = column + r < columns ? read_along(element, part, first + column + r, slice.first, slice.count, true,
                                                    copies + r * kLeftStride, buffer)
                                       : zeros;
      }
      float* panel = to + column / kPanel * depth * kPanel + column % kPanel;
      for (int64_t k = 0; k < depth; k += kLanes) {
        Float square[kLanes];
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; ++r) square[r] = load(rows[r] + k);
        transpose_registers(square);
        if (k + kLanes <= depth) {
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; ++i) store(panel + (k + i) * kPanel, square[i]);
        } else {
          for (int64_t i = k; i < depth; ++i) store(panel + i * kPanel, square[i - k]);
        }
      }
    }
  }
};

/// The product sums over the rows: numbers [slice.first, slice.first + count) are rows.
template <class Reader>
struct Across {
  static constexpr Layout kLeft = Layout::kTransposed;
  Reader reader;

  LeftTiles stage(Element element, const Slice& slice, int64_t first, int64_t rows, float* to, float* buffer) const {
    const auto& part = reader.part(slice.part);
    const int64_t depth = elements(element, slice.count), each = numbers_in(element), end = slice.first + slice.count;
    const int64_t whole = rows / kTileRows * kTileRows;
    for (int64_t k = 0; k < depth; ++k) {
      const float* from = read_across(element, part, slice.first + k * each, end, first, rows, buffer);
      float* tile = to + k * kTileRows;
      for (int64_t m = 0; m < whole; m += kTileRows, tile += depth * kTileRows) {
        memcpy(tile, from + m, kTileRows * sizeof(float));
      }
      if (whole < rows) memcpy(tile, from + whole, static_cast<size_t>(rows - whole) * sizeof(float));
    }
    return {to, kTileRows, depth * kTileRows};
  }

  void prefetch(const Slice& slice, int64_t first, int64_t columns, int64_t step, int64_t steps) const {
    for (int64_t r = slice.count * step / steps; r < slice.count * (step + 1) / steps; ++r) {
      reader.part(slice.part).prefetch(slice.first + r, first, columns);
    }
  }

  void pack(Element element, const Slice& slice, int64_t first, int64_t columns, float* to, float* buffer) const {
    const auto& part = reader.part(slice.part);
    const int64_t depth = elements(element, slice.count), each = numbers_in(element), end = slice.first + slice.count;
    for (int64_t k = 0; k < depth; ++k) {
      const float* from = read_across(element, part, slice.first + k * each, end, first, columns, buffer);
      for (int64_t c = 0; c < columns; c += kLanes) {
        store(to + (c / kPanel * depth + k) * kPanel + c % kPanel, load(from + c));
      }
    }
  }
};

MMK_NAMESPACE_END
