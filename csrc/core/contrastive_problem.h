// One contrastive_loss call over the logits x = scale * image text^T (+ bias), which never exist as a whole.
#pragma once

#include "problem.h"

namespace mmkernels {

enum class ContrastiveKind : int32_t { kSoftmax, kSigmoid };

/// Rows with a unit last stride.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t row = 0;
};

struct ContrastiveProblem {
  int64_t rows = 0, columns = 0, dim = 0;  // of image, of text, of both
  Matrix image, text;
  float scale = 1.0f, bias = 0.0f;
  ContrastiveKind kind = ContrastiveKind::kSoftmax;
  float smoothing = 0.0f;

  // Positives: a matrix, or one column per row (negative: none), or, both nullptr, the diagonal
  const uint8_t* positive = nullptr;
  int64_t positive_stride[2] = {0, 0};
  const int64_t* index = nullptr;
  const float *row_count = nullptr, *column_count = nullptr;  // positives of every row and column

  // Softmax: maximum and log of the sum of exp(x - maximum), of every row and column; written forward, read backward
  float *row_max = nullptr, *row_log_sum = nullptr, *column_max = nullptr, *column_log_sum = nullptr;
  // forward: the loss of every row and, softmax, of every column
  float *row_loss = nullptr, *column_loss = nullptr;

  // backward: gradients of those losses, and what is wanted (nullptr: nothing)
  const float *row_grad = nullptr, *column_grad = nullptr;
  Matrix grad_image, grad_text;
  float *grad_scale = nullptr, *grad_bias = nullptr;
};

}  // namespace mmkernels
