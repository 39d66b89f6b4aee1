// Rows of a concat_fusion: where they stand, what the norm makes of them, and how products read them.
#pragma once

#include <new>

#include "../../core/fusion_problem.h"
#include "../product.h"

MMK_NAMESPACE_BEGIN

/// Some elements that are made once and stay where they are. A container of the standard library would share its functions
/// with other instruction sets (core/namespace.h).
template <class T>
class List {
 public:
  explicit List(int64_t capacity) : data_(static_cast<T*>(std::malloc(sizeof(T) * larger<int64_t>(capacity, 1)))) {
    if (!data_) std::abort();
  }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() {
    for (int64_t i = 0; i < size_; ++i) data_[i].~T();
    std::free(data_);
  }
  template <class... Args>
  T& add(Args&&... args) {
    return *new (data_ + size_++) T{static_cast<Args&&>(args)...};
  }
  const T* data() const { return data_; }
  int64_t size() const { return size_; }
  const T& operator[](int64_t i) const { return data_[i]; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }

 private:
  T* data_;
  int64_t size_ = 0;
};

inline Element element_of(const FusionProblem& p) {
  return kBfloat16Pairs && p.dtype == DType::kBFloat16 ? Element::kPair : Element::kFloat;
}

/// Sum of index * stride over the axes of a row of the output.
inline int64_t offset_of(const FusionProblem& p, const int64_t* stride, int64_t row) {
  int64_t offset = 0;
  for (int axis = p.axes - 1; axis > 0; --axis) {
    offset += row % p.size[axis] * stride[axis];
    row /= p.size[axis];
  }
  return p.axes ? offset + row * stride[0] : 0;
}

/// The rows of the output that share an own row of a broadcast operand: its own axes fixed, the others running.
class SharingRows {
 public:
  SharingRows(const FusionProblem& p, const int64_t* own, int64_t own_row) : p_(p), own_(own) {
    for (int axis = p.axes - 1; axis >= 0; --axis) {
      if (!own[axis]) {
        count_ *= p.size[axis];
        continue;
      }
      first_ += own_row % p.size[axis] * step_of(axis);
      own_row /= p.size[axis];
    }
  }
  int64_t count() const { return count_; }
  /// Row of the output that is the i-th in order.
  int64_t row(int64_t i) const {
    int64_t row = first_;
    for (int axis = p_.axes - 1; axis >= 0; --axis) {
      if (own_[axis]) continue;
      row += i % p_.size[axis] * step_of(axis);
      i /= p_.size[axis];
    }
    return row;
  }

 private:
  int64_t step_of(int axis) const {
    int64_t step = 1;
    for (int i = axis + 1; i < p_.axes; ++i) step *= p_.size[i];
    return step;
  }
  const FusionProblem& p_;
  const int64_t* own_;
  int64_t first_ = 0, count_ = 1;
};

/// Offset of a row of a source; a shared one counts its own rows, and any output row that reads one says where it is.
inline int64_t source_offset(const FusionProblem& p, const Source& s, const int64_t* stride, int64_t row) {
  return offset_of(p, stride, s.shared ? SharingRows(p, s.own, row).row(0) : row);
}

/// Up to kLanes numbers, 0 beyond.
MMK_ALWAYS_INLINE Float load_numbers(const void* data, DType dtype, int64_t offset, int64_t count) {
  if (dtype == DType::kFloat32) {
    const float* p = static_cast<const float*>(data) + offset;
    if (count >= kLanes) return load(p);
    Float x = splat(0.0f);
    memcpy(&x, p, static_cast<size_t>(count) * sizeof(float));
    return x;
  }
  const uint16_t* p = static_cast<const uint16_t*>(data) + offset;
  if (count >= kLanes) return widen(*reinterpret_cast<const HalfUnaligned*>(p), dtype);
  Half h = {};
  memcpy(&h, p, static_cast<size_t>(count) * sizeof(uint16_t));
  return widen(h, dtype);
}

/// The gate or the residual beside columns [column, column + count) of a row.
MMK_ALWAYS_INLINE Float load_broadcast(const RowView& t, int64_t row_offset, int64_t column, int64_t count) {
  if (t.column) return load_numbers(t.data, t.dtype, row_offset + column, count);
  float x;
  return splat(*read_numbers(t.data, t.dtype, row_offset, 1, &x));
}

MMK_ALWAYS_INLINE void store_numbers(void* data, DType dtype, int64_t offset, int64_t count, Float x) {
  if (dtype == DType::kFloat32) {
    float* p = static_cast<float*>(data) + offset;
    if (count >= kLanes) {
      store(p, x);
    } else {
      memcpy(p, &x, static_cast<size_t>(count) * sizeof(float));
    }
    return;
  }
  uint16_t* p = static_cast<uint16_t*>(data) + offset;
  const Half h = narrow(x, dtype);
  if (count >= kLanes) {
    *reinterpret_cast<HalfUnaligned*>(p) = h;
  } else {
    memcpy(p, &h, static_cast<size_t>(count) * sizeof(uint16_t));
  }
}

/// Asks for columns of the row that a sink writes next but some.
inline void prefetch_result(const void* data, DType dtype, int64_t offset, int64_t columns) {
  prefetch_run<true>(at(data, dtype, offset), columns * element_size(dtype));
}
constexpr int64_t kRowsAhead = 4;

// ---- readers (panels.h) ----

/// Rows of W, from column `first` on.
inline StoredRows weight_rows(const FusionProblem& p, int64_t first) {
  return {at(p.weight, p.dtype, first), p.dtype, p.weight_stride};
}

/// Rows of a source: as they are, or (x - mean) * factor * scale with what is there of these.
struct SourceRows {
  const FusionProblem& p;
  const Source& source;
  const float* mean;    // of the rows
  const float* factor;  // of the rows
  const float* scale;   // of the features of the source

  const SourceRows& part(int) const { return *this; }
  int64_t offset(int64_t row) const { return source_offset(p, source, source.x.stride, row); }
  const float* numbers(int64_t row, int64_t k, int64_t count, float* buffer) const {
    const float* x = read_numbers(source.x.data, p.dtype, offset(row) + k, count, buffer);
    if (!mean && !factor && !scale) return x;
    const float centre = mean ? mean[row] : 0.0f, by = factor ? factor[row] : 1.0f;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      Float v = (load(x + i) - splat(centre)) * splat(by);
      if (scale) v = v * load(scale + k + i);
      store(buffer + i, v);
    }
    for (; i < count; ++i) {
      float v = (x[i] - centre) * by;
      if (scale) v = v * scale[k + i];
      buffer[i] = v;
    }
    return buffer;
  }
  const uint16_t* bits(int64_t row, int64_t k) const {
    if (mean || factor || scale) return nullptr;
    return static_cast<const uint16_t*>(source.x.data) + offset(row) + k;
  }
  void prefetch(int64_t row, int64_t k, int64_t count) const {
    prefetch_run(at(source.x.data, p.dtype, offset(row) + k), count * element_size(p.dtype));
  }
};

/// Readers of several parts of the axis that a product sums over.
template <class Reader>
struct Parts {
  const Reader* readers;
  const Reader& part(int i) const { return readers[i]; }
};

MMK_NAMESPACE_END
