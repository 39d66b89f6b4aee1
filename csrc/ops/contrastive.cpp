// mmkernels_cpu::contrastive_forward and contrastive_backward (softmax) and contrastive_sigmoid (both directions in one) on
// torch's stable ABI: tensors -> ContrastiveProblem.
//
// Shapes are checked against one another (a kernel must never read outside a tensor, whoever calls), and the values of
// targets, which only the CPU may read for free.

#include <algorithm>

#include "../cpu/kernels.h"
#include "tensors.h"
#include "threads.h"

namespace mmkernels {
namespace {

constexpr int64_t kSideNumbers = 5;  // of ContrastiveSide

ContrastiveRows rows_of(const Tensor& t, const char* name) {
  MMK_CHECK(t.dim() == 2, name, " must have 2 dimensions, got ", t.dim());
  MMK_CHECK(t.size(1) <= 1 || t.numel() == 0 || t.stride(1) == 1, name, " must have a unit last stride, got ",
            t.stride(1));
  return {t.const_data_ptr(), dtype_of(t, name), t.stride(0)};
}

/// A contiguous float32 (numbers, length) tensor.
float* numbers_of(const Tensor& t, const char* name, int64_t numbers, int64_t length) {
  MMK_CHECK(t.dim() == 2 && t.size(0) == numbers && t.size(1) == length && t.is_contiguous() &&
                t.scalar_type() == ScalarType::Float,
            name, " must be a contiguous float32 tensor of shape (", numbers, ", ", length, ")");
  return static_cast<float*>(t.mutable_data_ptr());
}

ContrastivePositives positives_of(const OptionalTensor& targets, int64_t rows, int64_t columns) {
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
  int64_t largest = -1;
  for (int64_t i = 0; i < rows; ++i) largest = std::max(largest, positives.index[i * positives.index_stride]);
  MMK_CHECK(largest < columns, "targets holds the index ", largest, ", expected at most ", columns - 1,
            " (negative: no positive)");
  return positives;
}

ContrastiveProblem problem_of(const Tensor& image, const Tensor& text, double scale, double bias,
                              const OptionalTensor& targets, bool sigmoid, double smoothing) {
  ContrastiveProblem p;
  p.image = rows_of(image, "image");
  p.text = rows_of(text, "text");
  MMK_CHECK(p.image.dtype == p.text.dtype, "image and text must share a dtype");
  MMK_CHECK(image.size(1) == text.size(1), "image has ", image.size(1), " features and text ", text.size(1));
  p.rows = image.size(0);
  p.columns = text.size(0);
  p.dim = image.size(1);
  p.scale = static_cast<float>(scale);
  p.bias = static_cast<float>(bias);
  p.kind = sigmoid ? ContrastiveKind::kSigmoid : ContrastiveKind::kSoftmax;
  p.smoothing = static_cast<float>(smoothing);
  p.positives = positives_of(targets, p.rows, p.columns);
  return p;
}

ContrastiveStatistics statistics_of(const Tensor& stats, const Tensor& terms, const char* name, int64_t length,
                                    bool totals) {
  float* a = numbers_of(stats, name, 2, length);
  float* b = numbers_of(terms, name, totals ? 2 : 1, length);
  return {a, a + length, b, totals ? b + length : nullptr};
}

void contrastive_forward(Tensor image, Tensor text, double scale, OptionalTensor targets, bool totals, Tensor row_stats,
                         Tensor row_terms, Tensor column_stats, Tensor column_terms) {
  ContrastiveProblem p = problem_of(image, text, scale, 0.0, targets, false, 0.0);
  p.row = statistics_of(row_stats, row_terms, "a row statistic", p.rows, totals);
  p.column = statistics_of(column_stats, column_terms, "a column statistic", p.columns, totals);
  kernels().contrastive.forward(p, torch_threads());
}

ContrastiveSide side_of(const Tensor& t, const char* name, int64_t length) {
  const float* numbers = numbers_of(t, name, kSideNumbers, length);
  return {numbers, numbers + length, numbers + 2 * length, numbers + 3 * length, numbers + 4 * length};
}

ContrastiveGradient gradient_of(const OptionalTensor& t, const char* name, const Tensor& like) {
  if (!t) return {};
  MMK_CHECK(t->dim() == 2 && t->size(0) == like.size(0) && t->size(1) == like.size(1) && t->is_contiguous(), name,
            " must be contiguous and of its tensor's shape");
  return {t->numel() > 0 ? t->mutable_data_ptr() : nullptr, dtype_of(*t, name)};
}

void run_backward(ContrastiveProblem& p, const Tensor& image, const Tensor& text, const OptionalTensor& grad_image,
                  const OptionalTensor& grad_text, const OptionalTensor& sums) {
  p.grad_image = gradient_of(grad_image, "grad_image", image);
  p.grad_text = gradient_of(grad_text, "grad_text", text);
  if (sums) {
    MMK_CHECK(sums->scalar_type() == ScalarType::Double && sums->numel() == 2 && sums->is_contiguous(),
              "sums must be two contiguous float64 numbers");
    p.sums = static_cast<double*>(sums->mutable_data_ptr());
  }
  kernels().contrastive.backward(p, torch_threads());
}

void contrastive_backward(Tensor image, Tensor text, double scale, OptionalTensor targets, bool levels, Tensor row_side,
                          Tensor column_side, OptionalTensor grad_image, OptionalTensor grad_text,
                          OptionalTensor sums) {
  ContrastiveProblem p = problem_of(image, text, scale, 0.0, targets, false, 0.0);
  p.row_side = side_of(row_side, "row_side", p.rows);
  p.column_side = side_of(column_side, "column_side", p.columns);
  p.levels = levels;
  run_backward(p, image, text, grad_image, grad_text, sums);
}

void contrastive_sigmoid(Tensor image, Tensor text, double scale, double bias, OptionalTensor targets, double smoothing,
                         OptionalTensor row_grad, OptionalTensor row_loss, OptionalTensor grad_image,
                         OptionalTensor grad_text, OptionalTensor sums) {
  ContrastiveProblem p = problem_of(image, text, scale, bias, targets, true, smoothing);
  MMK_CHECK(row_grad || !(grad_image || grad_text || sums), "gradients need row_grad");
  if (row_grad) p.row_side.grad = numbers_of(*row_grad, "row_grad", 1, p.rows);
  if (row_loss) p.row_loss = numbers_of(*row_loss, "row_loss", 1, p.rows);
  run_backward(p, image, text, grad_image, grad_text, sums);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mmkernels_cpu, m) {
  m.def(
      "contrastive_forward(Tensor image, Tensor text, float scale, Tensor? targets, bool totals, "
      "Tensor(a!) row_stats, Tensor(b!) row_terms, Tensor(c!) column_stats, Tensor(d!) column_terms) -> ()");
  m.def(
      "contrastive_backward(Tensor image, Tensor text, float scale, Tensor? targets, bool levels, "
      "Tensor row_side, Tensor column_side, Tensor(a!)? grad_image, Tensor(b!)? grad_text, Tensor(c!)? sums) -> ()");
  m.def(
      "contrastive_sigmoid(Tensor image, Tensor text, float scale, float bias, Tensor? targets, float smoothing, "
      "Tensor? row_grad, Tensor(a!)? row_loss, Tensor(b!)? grad_image, Tensor(c!)? grad_text, Tensor(d!)? sums) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cpu, CPU, m) {
  m.impl("contrastive_forward", TORCH_BOX(&contrastive_forward));
  m.impl("contrastive_backward", TORCH_BOX(&contrastive_backward));
  m.impl("contrastive_sigmoid", TORCH_BOX(&contrastive_sigmoid));
}

}  // namespace mmkernels
