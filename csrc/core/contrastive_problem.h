// One contrastive_loss call, or a block of one, over the logits x = scale * image text^T (+ bias), which never exist as a
// whole. The kernels make statistics of rows and columns, and gradients from such; what a loss makes of the statistics
// (mmkernels/ops/contrastive/statistics.py) is O(batch) and none of their business.
#pragma once

#include "problem.h"

namespace mmkernels {

enum class ContrastiveKind : int32_t { kSoftmax, kSigmoid };

/// Rows with a unit last stride.
struct ContrastiveRows {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t stride = 0;
};

/// A dense gradient; nullptr: not wanted.
struct ContrastiveGradient {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
};

/// Who is a positive of whom: a matrix, or one column per row (outside the columns: none), or, both nullptr, the
/// column of the row's own number.
struct ContrastivePositives {
  const uint8_t* matrix = nullptr;
  int64_t row_stride = 0, column_stride = 0;
  const int64_t* index = nullptr;
  int64_t index_stride = 0;
};

/// What softmax leaves of every row (or column), one number each.
struct ContrastiveStatistics {
  float *maximum = nullptr, *log_sum = nullptr;  // log_sum: log of the sum of exp(x - maximum)
  float *hit = nullptr, *total = nullptr;        // sum over the positives, sum over all (nullptr: not wanted)
};

/// What one direction puts on the logits of its rows (or columns):
/// d loss / d x = grad * exp(x - maximum - log_sum) - hit where positive - level
struct ContrastiveSide {
  const float *maximum = nullptr, *log_sum = nullptr, *grad = nullptr, *hit = nullptr, *level = nullptr;
};

struct ContrastiveProblem {
  int64_t rows = 0, columns = 0, dim = 0;  // of image, of text, of both
  ContrastiveRows image, text;
  float scale = 1.0f, bias = 0.0f;  // bias: sigmoid only
  ContrastiveKind kind = ContrastiveKind::kSoftmax;
  float smoothing = 0.0f;  // sigmoid only
  ContrastivePositives positives;

  // forward: softmax only
  ContrastiveStatistics row, column;

  // backward; the sigmoid kind has row_side.grad only, and not even that where only the losses are wanted
  float* row_loss = nullptr;  // sigmoid only; nullptr: not wanted
  ContrastiveSide row_side, column_side;
  bool levels = false;  // whether a level is other than 0
  ContrastiveGradient grad_image, grad_text;
  double* sums = nullptr;  // of dx * dot product and of dx
};

}  // namespace mmkernels
