// concat_fusion_forward and concat_fusion_backward as the dispatcher calls them: one text for every library of kernels.
//
// A Backend says whether its tensors are on a device (`kOnDevice`) and runs a problem: `forward(const FusionProblem&, const Tensor& weight)`, and `backward`.
#pragma once

#include <vector>

#include "lower_fusion.h"

namespace mmkernels {

#define MMK_FUSION_OPERANDS \
  "Tensor[] inputs, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, Tensor? gate, "
#define MMK_FUSION_FORWARD_SCHEMA                                                                                 \
  "concat_fusion_forward(" MMK_FUSION_OPERANDS                                                                    \
  "Tensor? residual, int norm_kind, float eps, int activation, Tensor(a!) out, Tensor(b!)? product, Tensor(c!)? " \
  "mean, "                                                                                                        \
  "Tensor(d!)? rstd) -> ()"
#define MMK_FUSION_BACKWARD_SCHEMA                                                                             \
  "concat_fusion_backward(Tensor grad_out, " MMK_FUSION_OPERANDS                                               \
  "int norm_kind, float eps, int activation, Tensor? product, Tensor? mean, Tensor? rstd, int[] needs_input, " \
  "Tensor(a!)[] grad_inputs, Tensor(b!)? grad_weight, Tensor(c!)? grad_bias, Tensor(d!)? grad_norm_weight, "   \
  "Tensor(e!)? grad_norm_bias, Tensor(f!)? grad_gate) -> ()"

template <class Backend>
void fusion_forward(std::vector<Tensor> inputs, Tensor weight, OptionalTensor bias, OptionalTensor norm_weight,
                    OptionalTensor norm_bias, OptionalTensor gate, OptionalTensor residual, int64_t norm_kind,
                    double eps, int64_t activation, Tensor out, OptionalTensor product, OptionalTensor mean,
                    OptionalTensor rstd) {
  if constexpr (Backend::kOnDevice)
    check_device(weight, {inputs}, {bias, norm_weight, norm_bias, gate, residual, out, product, mean, rstd});
  LoweredFusion call({inputs, weight, bias, norm_weight, norm_bias, gate, norm_kind, eps, activation}, out);
  FusionProblem& p = call.problem;
  call.statistics(mean, rstd);
  p.result = call.broadcast(out, "out");
  if (residual) p.residual = call.broadcast(*residual, "residual");
  if (product) p.product = call.rows_of(*product, "product");
  call.merge_axes();
  Backend::forward(p, weight);
}

/// A gradient is written where it is given; those of inputs where `needs_input` is not 0.
template <class Backend>
void fusion_backward(Tensor grad_out, std::vector<Tensor> inputs, Tensor weight, OptionalTensor bias,
                     OptionalTensor norm_weight, OptionalTensor norm_bias, OptionalTensor gate, int64_t norm_kind,
                     double eps, int64_t activation, OptionalTensor product, OptionalTensor mean, OptionalTensor rstd,
                     std::vector<int64_t> needs_input, std::vector<Tensor> grad_inputs, OptionalTensor grad_weight,
                     OptionalTensor grad_bias, OptionalTensor grad_norm_weight, OptionalTensor grad_norm_bias,
                     OptionalTensor grad_gate) {
  if constexpr (Backend::kOnDevice)
    check_device(weight, {inputs, grad_inputs},
                 {grad_out, bias, norm_weight, norm_bias, gate, product, mean, rstd, grad_weight, grad_bias,
                  grad_norm_weight, grad_norm_bias, grad_gate});
  LoweredFusion call({inputs, weight, bias, norm_weight, norm_bias, gate, norm_kind, eps, activation}, grad_out);
  FusionProblem& p = call.problem;
  call.statistics(mean, rstd);
  p.grad_out = call.broadcast(grad_out, "grad_out");
  if (product) p.saved_product = call.rows_of(*product, "product");
  MMK_CHECK(product || (p.norm == NormKind::kNone && p.activation == Activation::kNone && !p.gate.data),
            "product is needed where there is a norm, an activation or a gate");
  MMK_CHECK(needs_input.size() == inputs.size() && grad_inputs.size() == inputs.size(),
            "needs_input and grad_inputs must have one entry an input");
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (needs_input[i]) call.gradient_of(i, grad_inputs[i]);
  }
  if (grad_weight) {
    MMK_CHECK(grad_weight->is_contiguous() && grad_weight->numel() == weight.numel() &&
                  dtype_of(*grad_weight, "grad_weight") == p.dtype,
              "grad_weight must be contiguous and like weight");
    p.grad_weight = grad_weight->mutable_data_ptr();
  }
  p.grad_bias = vector_of(grad_bias, "grad_bias", p.out);
  p.grad_norm_weight = vector_of(grad_norm_weight, "grad_norm_weight", p.width);
  p.grad_norm_bias = vector_of(grad_norm_bias, "grad_norm_bias", p.width);
  MMK_CHECK(!grad_gate || gate, "grad_gate without a gate");
  p.grad_gate = vector_of(grad_gate, "grad_gate", gate ? gate->numel() : 0);
  call.merge_axes();
  Backend::backward(p, weight);
}

}  // namespace mmkernels
