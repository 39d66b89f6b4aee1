// Tensors of a concat_fusion -> FusionProblem.
//
// Every shape is checked against the others: a kernel must never read outside a tensor, whoever calls.
#pragma once

#include <vector>

#include "../core/fusion_problem.h"
#include "tensors.h"

namespace mmkernels {

/// The tensors and settings that both directions take.
struct FusionCall {
  const std::vector<Tensor>& inputs;
  const Tensor& weight;
  const OptionalTensor &bias, &norm_weight, &norm_bias, &gate;
  int64_t norm_kind;
  double eps;
  int64_t activation;
};

/// FusionProblem plus the memory its pointers need.
class LoweredFusion {
 public:
  FusionProblem problem;
  std::vector<Source> sources;

  /// `like`: a tensor of the output's shape.
  LoweredFusion(const FusionCall& c, const Tensor& like) {
    FusionProblem& p = problem;
    MMK_CHECK(like.dim() >= 1 && like.dim() - 1 <= kMaxRowAxes, "the output must have 1 to ", kMaxRowAxes + 1,
              " axes, got ", like.dim());
    p.axes = static_cast<int>(like.dim() - 1);
    p.rows = 1;
    for (int axis = 0; axis < p.axes; ++axis) p.rows *= p.size[axis] = like.size(axis);
    MMK_CHECK(c.weight.dim() == 2 && (c.weight.size(1) <= 1 || c.weight.numel() == 0 || c.weight.stride(1) == 1),
              "weight must be a matrix with a unit last stride");
    p.out = c.weight.size(0);
    p.width = c.weight.size(1);
    p.dtype = dtype_of(c.weight, "weight");
    p.weight = c.weight.const_data_ptr();
    p.weight_stride = c.weight.stride(0);
    MMK_CHECK(like.size(p.axes) == p.out, "the output has ", like.size(p.axes), " columns, expected ", p.out);
    add_sources(c.inputs);
    p.bias = vector_of(c.bias, "bias", p.out);
    p.norm_weight = vector_of(c.norm_weight, "norm_weight", p.width);
    p.norm_bias = vector_of(c.norm_bias, "norm_bias", p.width);
    MMK_CHECK(c.norm_kind >= 0 && c.norm_kind <= 2, "norm_kind is ", c.norm_kind, ", expected 0 to 2");
    p.norm = static_cast<NormKind>(c.norm_kind);
    MMK_CHECK(p.norm != NormKind::kNone || (!p.norm_weight && !p.norm_bias), "norm parameters without a norm");
    MMK_CHECK(p.norm == NormKind::kNone || p.width > 0, "a norm needs at least one feature");
    p.eps = static_cast<float>(c.eps);
    MMK_CHECK(c.activation >= 0 && c.activation <= 6, "activation is ", c.activation, ", expected 0 to 6");
    p.activation = static_cast<Activation>(c.activation);
    if (c.gate) {
      p.gate = broadcast(*c.gate, "gate");
      p.gate_rows = own_rows(*c.gate, p.gate_own);
    }
  }

  /// The norm's statistics, where it has them.
  void statistics(const OptionalTensor& mean, const OptionalTensor& rstd) {
    FusionProblem& p = problem;
    MMK_CHECK(mean.has_value() == (p.norm == NormKind::kLayer), "mean comes with a LayerNorm, and only with one");
    MMK_CHECK(rstd.has_value() == (p.norm != NormKind::kNone), "rstd comes with a norm, and only with one");
    p.mean = vector_of(mean, "mean", p.rows);
    p.rstd = vector_of(rstd, "rstd", p.rows);
  }

  /// A tensor that broadcasts to the output.
  RowView broadcast(const Tensor& t, const char* name) {
    RowView view;
    view.data = t.mutable_data_ptr();
    view.dtype = dtype_of(t, name);
    const int64_t columns = t.dim() ? t.size(t.dim() - 1) : 1;
    MMK_CHECK(columns == 1 || columns == problem.out, name, " has ", columns, " columns, expected 1 or ", problem.out);
    view.column = columns == 1 ? 0 : 1;
    MMK_CHECK(columns == 1 || t.numel() == 0 || t.stride(t.dim() - 1) == 1, name, " must have a unit last stride, got ",
              t.stride(t.dim() - 1));
    leading_strides(t, name, view.stride);
    return view;
  }

  /// A dense tensor of the output's elements.
  void* rows_of(const Tensor& t, const char* name) {
    MMK_CHECK(t.is_contiguous() && t.numel() == problem.rows * problem.out && dtype_of(t, name) == problem.dtype, name,
              " must be contiguous, of the output's shape and weight's dtype");
    return t.mutable_data_ptr();
  }

  /// Axes of size 1 go, and neighbours along which every tensor steps evenly become one. The last step of a lowering.
  void merge_axes() {
    FusionProblem& p = problem;
    std::vector<int64_t*> strides = {p.gate.stride, p.residual.stride, p.result.stride, p.grad_out.stride, p.gate_own};
    for (Source& s : sources) strides.insert(strides.end(), {s.x.stride, s.grad.stride, s.own});
    int kept = 0;
    for (int axis = 0; axis < p.axes; ++axis) {
      if (p.size[axis] == 1) continue;
      bool even = kept > 0;
      for (const int64_t* stride : strides) even = even && stride[kept - 1] == stride[axis] * p.size[axis];
      if (!even) ++kept;
      p.size[kept - 1] = even ? p.size[kept - 1] * p.size[axis] : p.size[axis];
      for (int64_t* stride : strides) stride[kept - 1] = stride[axis];
    }
    p.axes = kept;
    p.sources = sources.data();
    p.num_sources = static_cast<int>(sources.size());
  }

  void gradient_of(size_t index, const Tensor& grad) {
    const Source& s = sources[index];
    MMK_CHECK(grad.dim() >= 1 && grad.size(grad.dim() - 1) == s.width && dtype_of(grad, "grad_inputs") == problem.dtype,
              "grad_inputs[", index, "] must be like its input");
    sources[index].grad = view_of(grad, s.width, "grad_inputs");
    int64_t own[kMaxRowAxes];
    MMK_CHECK(own_rows(grad, own) == s.own_rows, "grad_inputs[", index, "] must be like its input");
  }

 private:
  void add_sources(const std::vector<Tensor>& inputs) {
    FusionProblem& p = problem;
    int64_t first = 0;
    for (const Tensor& t : inputs) {
      MMK_CHECK(t.dim() >= 1 && dtype_of(t, "inputs") == p.dtype, "inputs must have an axis and weight's dtype");
      Source s;
      s.width = t.size(t.dim() - 1);
      s.first = first;
      s.x = view_of(t, s.width, "inputs");
      s.own_rows = own_rows(t, s.own);
      s.shared = s.own_rows != p.rows;
      first += s.width;
      sources.push_back(s);
    }
    MMK_CHECK(first == p.width, "inputs have ", first, " features, expected ", p.width, ", weight's columns");
  }

  RowView view_of(const Tensor& t, int64_t width, const char* name) {
    MMK_CHECK(width <= 1 || t.numel() == 0 || t.stride(t.dim() - 1) == 1, name, " must have a unit last stride, got ",
              t.stride(t.dim() - 1));
    RowView view;
    view.data = t.mutable_data_ptr();
    view.dtype = dtype_of(t, name);
    leading_strides(t, name, view.stride);
    return view;
  }

  /// Strides of the axes but the last, right-aligned with those of the output: 0 along the ones that broadcast.
  void leading_strides(const Tensor& t, const char* name, int64_t* stride) {
    const int missing = problem.axes + 1 - static_cast<int>(t.dim());
    MMK_CHECK(missing >= 0 || t.dim() == 0, name, " has ", t.dim(), " axes, more than the output's ", problem.axes + 1);
    for (int axis = 0; axis < problem.axes; ++axis) {
      const int64_t size = axis < missing ? 1 : t.size(axis - missing);
      MMK_CHECK(size == 1 || size == problem.size[axis], name, " has size ", size, ", expected 1 or ",
                problem.size[axis], " on axis ", axis, " of the output");
      stride[axis] = size == 1 ? 0 : t.stride(axis - missing);
    }
  }

  /// The number of rows of its own that a broadcast tensor has, and the strides of their index.
  int64_t own_rows(const Tensor& t, int64_t* own) {
    const int missing = problem.axes + 1 - static_cast<int>(t.dim());
    int64_t rows = 1;
    for (int axis = problem.axes - 1; axis >= 0; --axis) {
      const int64_t size = axis < missing ? 1 : t.size(axis - missing);
      own[axis] = size == 1 ? 0 : rows;
      rows *= size;
    }
    return rows;
  }
};

}  // namespace mmkernels
