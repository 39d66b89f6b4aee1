// One concat_fusion call: out = residual + gate * act(norm(cat(sources)) W^T + bias).
#pragma once

#include "problem.h"

namespace mmkernels {

enum class NormKind : int32_t { kNone, kLayer, kRms };
enum class Activation : int32_t { kNone, kGelu, kGeluTanh, kRelu, kSilu, kTanh, kSigmoid };

constexpr int kMaxRowAxes = 16;
/// In CUDA sources travel in the kernel's parameters.
constexpr int kMaxCudaSources = 16;

/// A tensor whose leading axes broadcast against those of the output: stride 0 along an axis that it lacks.
struct RowView {
  void* data = nullptr;  // nullptr: absent
  DType dtype = DType::kFloat32;
  int64_t stride[kMaxRowAxes] = {};
  int64_t column = 1;  // stride of the last axis, 0 or 1
};

/// Columns [first, first + width) of the virtual concatenation.
struct Source {
  RowView x, grad;
  int64_t width = 0, first = 0;
  // A shared source broadcasts along some axis: it has `own_rows` rows of its own, of which row q of the output reads
  // sum(index[axis] * own[axis]); an own row stands at `x` and `grad` by the same index.
  bool shared = false;
  int64_t own_rows = 0;
  int64_t own[kMaxRowAxes] = {};
};

/// Dense vectors in fp32: what is of another dtype is converted before the call.
struct FusionProblem {
  int axes = 0;
  int64_t size[kMaxRowAxes] = {};  // leading shape of the output, whose product is `rows`
  int64_t rows = 0, width = 0, out = 0;
  DType dtype = DType::kFloat32;  // of sources and weight
  const Source* sources = nullptr;
  int num_sources = 0;
  const void* weight = nullptr;
  int64_t weight_stride = 0;  // from output to output; features are dense
  const float *bias = nullptr, *norm_weight = nullptr, *norm_bias = nullptr;  // nullptr: absent
  RowView gate, residual, result;
  NormKind norm = NormKind::kNone;
  Activation activation = Activation::kNone;
  float eps = 0.0f;
  float *mean = nullptr, *rstd = nullptr;  // one a row, where the norm has them; written forward, read backward

  // forward: where the backward's copy of u = norm(x) W^T without any constant goes, dense in `dtype`; nullptr: nowhere
  void* product = nullptr;

  // backward only
  RowView grad_out;
  const void* saved_product = nullptr;
  void* grad_weight = nullptr;  // dense, in `dtype`
  float *grad_bias = nullptr, *grad_norm_weight = nullptr, *grad_norm_bias = nullptr;
  // like the gate, dense; gate_own: its own row of every output row, as in Source
  float* grad_gate = nullptr;
  int64_t gate_rows = 0, gate_own[kMaxRowAxes] = {};
};

}  // namespace mmkernels
