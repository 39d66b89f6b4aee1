// Tensors -> ContrastiveProblem, for every library of kernels.
//
// Shapes are checked against one another (a kernel must never read outside a tensor, whoever calls), and the values of
// targets, which only the CPU may read for free.
#pragma once

#include <algorithm>

#include "../core/contrastive_problem.h"
#include "tensors.h"

namespace mmkernels {

constexpr int64_t kSideNumbers = 5;  // of ContrastiveSide

inline ContrastiveRows rows_of(const Tensor& t, const char* name) {
  MMK_CHECK(t.dim() == 2, name, " must have 2 dimensions, got ", t.dim());
  MMK_CHECK(t.size(1) <= 1 || t.numel() == 0 || t.stride(1) == 1, name, " must have a unit last stride, got ",
            t.stride(1));
  return {t.const_data_ptr(), dtype_of(t, name), t.stride(0)};
}

/// A contiguous float32 (numbers, length) tensor.
inline float* numbers_of(const Tensor& t, const char* name, int64_t numbers, int64_t length) {
  MMK_CHECK(t.dim() == 2 && t.size(0) == numbers && t.size(1) == length && t.is_contiguous() &&
                t.scalar_type() == ScalarType::Float,
            name, " must be a contiguous float32 tensor of shape (", numbers, ", ", length, ")");
  return static_cast<float*>(t.mutable_data_ptr());
}

/// `readable`: the host may read the indices, and checks them.
inline ContrastivePositives positives_of(const OptionalTensor& targets, int64_t rows, int64_t columns, bool readable) {
  ContrastivePositives positives;
  if (!targets) return positives;
  if (targets->scalar_type() == ScalarType::Bool) {
    MMK_CHECK(targets->dim() == 2 && targets->size(0) == rows && targets->size(1) == columns,
              "targets must be a bool (", rows, ", ", columns, ") tensor");
    positives.matrix = static_cast<const uint8_t*>(targets->const_data_ptr());
    positives.row_stride = targets->stride(0);
    positives.column_stride = targets->stride(1);
    return positives;
  }
  MMK_CHECK(targets->scalar_type() == ScalarType::Long && targets->dim() == 1 && targets->size(0) == rows,
            "targets must be a bool matrix or an int64 vector of ", rows, " elements");
  positives.index = static_cast<const int64_t*>(targets->const_data_ptr());
  positives.index_stride = targets->stride(0);
  if (!readable) return positives;
  int64_t largest = -1;
  for (int64_t i = 0; i < rows; ++i) largest = std::max(largest, positives.index[i * positives.index_stride]);
  MMK_CHECK(largest < columns, "targets holds the index ", largest, ", expected at most ", columns - 1,
            " (negative: no positive)");
  return positives;
}

/// Without scale and bias, which a device keeps to itself.
inline ContrastiveProblem problem_of(const Tensor& image, const Tensor& text, const OptionalTensor& targets,
                                     ContrastiveKind kind, double smoothing, bool readable) {
  ContrastiveProblem p;
  p.image = rows_of(image, "image");
  p.text = rows_of(text, "text");
  MMK_CHECK(p.image.dtype == p.text.dtype, "image and text must share a dtype");
  MMK_CHECK(image.size(1) == text.size(1), "image has ", image.size(1), " features and text ", text.size(1));
  p.rows = image.size(0);
  p.columns = text.size(0);
  p.dim = image.size(1);
  p.kind = kind;
  p.smoothing = static_cast<float>(smoothing);
  p.positives = positives_of(targets, p.rows, p.columns, readable);
  return p;
}

inline ContrastiveStatistics statistics_of(const Tensor& stats, const Tensor& terms, const char* name, int64_t length,
                                           bool totals) {
  float* a = numbers_of(stats, name, 2, length);
  float* b = numbers_of(terms, name, totals ? 2 : 1, length);
  return {a, a + length, b, totals ? b + length : nullptr};
}

inline ContrastiveSide side_of(const Tensor& t, const char* name, int64_t length) {
  const float* numbers = numbers_of(t, name, kSideNumbers, length);
  return {numbers, numbers + length, numbers + 2 * length, numbers + 3 * length, numbers + 4 * length};
}

inline ContrastiveGradient gradient_of(const OptionalTensor& t, const char* name, const Tensor& like) {
  if (!t) return {};
  MMK_CHECK(t->dim() == 2 && t->size(0) == like.size(0) && t->size(1) == like.size(1) && t->is_contiguous(), name,
            " must be contiguous and of its tensor's shape");
  return {t->numel() > 0 ? t->mutable_data_ptr() : nullptr, dtype_of(*t, name)};
}

/// What the softmax kind's forward writes.
inline void set_statistics(ContrastiveProblem& p, bool totals, const Tensor& row_stats, const Tensor& row_terms,
                           const Tensor& column_stats, const Tensor& column_terms) {
  p.row = statistics_of(row_stats, row_terms, "a row statistic", p.rows, totals);
  p.column = statistics_of(column_stats, column_terms, "a column statistic", p.columns, totals);
}

/// What the softmax kind's backward reads.
inline void set_sides(ContrastiveProblem& p, bool levels, const Tensor& row_side, const Tensor& column_side) {
  p.row_side = side_of(row_side, "row_side", p.rows);
  p.column_side = side_of(column_side, "column_side", p.columns);
  p.levels = levels;
}

/// What the sigmoid kind reads and writes of rows.
inline void set_rows(ContrastiveProblem& p, const OptionalTensor& row_grad, const OptionalTensor& row_loss,
                     bool gradients) {
  MMK_CHECK(row_grad || !gradients, "gradients need row_grad");
  if (row_grad) p.row_side.grad = numbers_of(*row_grad, "row_grad", 1, p.rows);
  if (row_loss) p.row_loss = numbers_of(*row_loss, "row_loss", 1, p.rows);
}

/// Gradients, of either kind.
inline void set_gradients(ContrastiveProblem& p, const Tensor& image, const Tensor& text,
                          const OptionalTensor& grad_image, const OptionalTensor& grad_text,
                          const OptionalTensor& sums) {
  p.grad_image = gradient_of(grad_image, "grad_image", image);
  p.grad_text = gradient_of(grad_text, "grad_text", text);
  if (!sums) return;
  MMK_CHECK(sums->scalar_type() == ScalarType::Double && sums->numel() == 2 && sums->is_contiguous(),
            "sums must be two contiguous float64 numbers");
  p.sums = static_cast<double*>(sums->mutable_data_ptr());
}

}  // namespace mmkernels
