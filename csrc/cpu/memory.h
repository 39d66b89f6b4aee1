// Rows in and out of scratch: the only place that knows the element type of a tensor.
//
// Scratch holds the elements that the matrix products multiply (gemm.h): floats, or pairs of bf16 where the processor
// multiplies those. Pairs along a row are pairs of features as they stand in the tensor. Of pairs of rows attention has
// the earlier row in the high half, for a chain in order; panels.h in the low one, beside pairs along a row.
#pragma once

#include <cstdlib>

#include "gemm.h"

MMK_NAMESPACE_BEGIN

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

inline const char* at(const void* data, DType dtype, int64_t index) {
  return static_cast<const char*>(data) + index * element_size(dtype);
}

MMK_ALWAYS_INLINE Float widen(Half h, DType dtype) {
  return dtype == DType::kBFloat16 ? widen_bfloat16(h) : widen_float16(h);
}
MMK_ALWAYS_INLINE Half narrow(Float x, DType dtype) {
  return dtype == DType::kBFloat16 ? narrow_bfloat16(x) : narrow_float16(x);
}

/// to[i] = factor * from[i] for `count` elements with unit stride, read no further than that.
inline void widen_run(const void* from, DType dtype, int64_t count, float factor, float* to) {
  int64_t i = 0;
  if (dtype == DType::kFloat32) {
    const float* p = static_cast<const float*>(from);
    for (; i + kLanes <= count; i += kLanes) store(to + i, load(p + i) * splat(factor));
    for (; i < count; ++i) to[i] = p[i] * factor;
    return;
  }
  const uint16_t* p = static_cast<const uint16_t*>(from);
  for (; i + kLanes <= count; i += kLanes) {
    store(to + i, widen(*reinterpret_cast<const HalfUnaligned*>(p + i), dtype) * splat(factor));
  }
  if (i < count) {
    Half rest = {};
    for (int64_t j = i; j < count; ++j) rest[j - i] = p[j];
    const Float wide = widen(rest, dtype) * splat(factor);
    for (int64_t j = i; j < count; ++j) to[j] = wide[j - i];
  }
}

/// `count` numbers in fp32 of what stands at `offset`, in place or in `buffer`.
inline const float* read_numbers(const void* data, DType dtype, int64_t offset, int64_t count, float* buffer) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data) + offset;
  widen_run(at(data, dtype, offset), dtype, count, 1.0f, buffer);
  return buffer;
}

/// to[i] = from[i], rounded to the tensor's type. -0 becomes +0: a sum that underflowed equals one that started from 0.
inline void narrow_run(const float* from, int64_t count, void* to, DType dtype) {
  if (dtype == DType::kFloat32) {
    float* p = static_cast<float*>(to);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(p + i, load(from + i) + splat(0.0f));
    for (; i < count; ++i) p[i] = from[i] + 0.0f;
    return;
  }
  uint16_t* p = static_cast<uint16_t*>(to);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    *reinterpret_cast<HalfUnaligned*>(p + i) = narrow(load(from + i) + splat(0.0f), dtype);
  }
  if (i < count) {
    Float rest = splat(0.0f);
    for (int64_t j = i; j < count; ++j) rest[j - i] = from[j] + 0.0f;
    const Half half = narrow(rest, dtype);
    for (int64_t j = i; j < count; ++j) p[j] = half[j - i];
  }
}

/// Whether `rows` x `columns` elements hold a NaN or an Inf.
inline bool has_non_finite(Element element, const float* data, int64_t stride, int64_t rows, int64_t columns) {
  const auto test = [&](Float x) { return element == Element::kPair ? not_finite_pair(x) : not_finite(x); };
  Int found = splat(0);
  for (int64_t r = 0; r < rows; ++r) {
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) found |= test(load(data + r * stride + c));
    if (c == columns) continue;
    Float rest = splat(0.0f);
    memcpy(&rest, data + r * stride + c, static_cast<size_t>(columns - c) * sizeof(float));
    found |= test(rest);
  }
  return any(found);
}

/// (rows, columns) -> (columns, rows); both counts are multiples of kLanes.
inline void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
                      int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      transpose_square(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
    }
  }
}

/// Elements of a row of `columns` numbers, as many as `width` says: 0 beyond. Pairs are as they are, without the factor.
inline void read_row(Element element, const void* from, DType dtype, int64_t columns, float factor, int64_t width,
                     float* to) {
  int64_t filled = elements(element, columns);
  if (element == Element::kPair) {
    const char* bytes = static_cast<const char*>(from);
    const int64_t size = columns * element_size(dtype), vector = sizeof(Float), whole = size / vector * vector;
    // vectors, since a call of memcpy a row costs as much as the row
    for (int64_t b = 0; b < whole; b += vector) memcpy(reinterpret_cast<char*>(to) + b, bytes + b, sizeof(Float));
    if (columns % 2) to[filled - 1] = 0.0f;
    memcpy(reinterpret_cast<char*>(to) + whole, bytes + whole, static_cast<size_t>(size - whole));
  } else {
    widen_run(from, dtype, columns, factor, to);
  }
  for (; filled < width; ++filled) to[filled] = 0.0f;
}

/// Pairs of two rows of bf16 (nullptr: a row of zeros), 0 beyond their columns.
inline void pair_rows(const void* high, const void* low, int64_t columns, int64_t width, float* to) {
  const uint16_t *above = static_cast<const uint16_t*>(high), *below = static_cast<const uint16_t*>(low);
  const auto halves = [](const uint16_t* row, int64_t c) {
    return row ? *reinterpret_cast<const HalfUnaligned*>(row + c) : Half{};
  };
  int64_t c = 0;
  for (; above && below && c + 2 * kLanes <= columns; c += 2 * kLanes) {
    Float paired[2];
    pair_neighbouring_columns(above + c, below + c, paired);
    store(to + c, paired[0]);
    store(to + c + kLanes, paired[1]);
  }
  for (; c + kLanes <= columns; c += kLanes) store(to + c, pair(halves(above, c), halves(below, c)));
  for (; c < columns; ++c) {
    const uint32_t word = static_cast<uint32_t>(above ? above[c] : 0) << 16 | (below ? below[c] : 0);
    memcpy(to + c, &word, sizeof word);
  }
  for (; c < width; ++c) to[c] = 0.0f;
}

/// Asks for memory before it is needed: what will be read into the second-level cache, since the first is too small for
/// what is under way; what will be written, into the first.
template <bool writes = false>
MMK_ALWAYS_INLINE void prefetch_run(const void* from, int64_t bytes) {
  // GCC takes a function of nothing but prefetches for one without effect, and leaves out calls of it; a fence is an effect
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  constexpr int64_t kLine = 64;
  for (int64_t byte = 0; byte < bytes; byte += kLine) {
    __builtin_prefetch(static_cast<const char*>(from) + byte, writes ? 1 : 0, writes ? 3 : 2);
  }
}

/// Rows in scratch, or in place; the stride counts elements.
struct Staged {
  const float* data;
  int64_t stride;
};

/// The same from a row on.
inline Staged behind(const Staged& s, int64_t rows) { return {s.data + rows * s.stride, s.stride}; }

/// There is no way to go on without memory.
inline float* allocate(int64_t floats) {
  void* data = std::aligned_alloc(64, static_cast<size_t>(round_up(larger<int64_t>(floats, 1), 16)) * sizeof(float));
  if (!data) std::abort();
  return static_cast<float*>(data);
}

/// Memory of a whole call, freed with it.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { std::free(data_); }

  float* get() const { return data_; }
  float* take(int64_t floats) {
    std::free(data_);
    data_ = nullptr;
    return data_ = allocate(floats);
  }

 private:
  float* data_ = nullptr;
};

/// Scratch of one thread: one allocation that grows and is kept for the next call.
class Arena {
 public:
  explicit Arena(int64_t floats) {
    thread_local Block block;
    if (block.size < floats) {
      std::free(block.data);
      block.size = 0;
      block.data = allocate(floats);
      block.size = floats;
    }
    next_ = block.data;
  }
  float* take(int64_t floats) {
    float* p = next_;
    next_ += round_up(floats, 16);
    return p;
  }

 private:
  struct Block {
    float* data = nullptr;
    int64_t size = 0;
    ~Block() { std::free(data); }
  };
  float* next_;
};

MMK_NAMESPACE_END
