// mmkernels_cuda::contrastive_forward, contrastive_backward and contrastive_sigmoid on torch's stable ABI: those of the CPU
// but for scale and bias, which are tensors.
//
// Nothing here waits for the device or reads its memory, and the workspace comes from torch's allocator, so that calls
// may be captured in a CUDA graph.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/ops.h>

#include <initializer_list>

#include "../../cuda/launch/contrastive.h"
#include "../lower_contrastive.h"

namespace mmkernels {
namespace {

using Workspace = int64_t (*)(const ContrastiveInput&);
using Launch = const char* (*)(const ContrastiveInput&, void*, void*);

ContrastiveInput input_of(const Tensor& image, const Tensor& text, const Tensor& scale, const OptionalTensor& bias,
                          const OptionalTensor& targets, ContrastiveKind kind, double smoothing,
                          std::initializer_list<OptionalTensor> others) {
  const auto device = image.device();
  const auto check = [&](const Tensor& t) {
    MMK_CHECK(t.device() == device, "every tensor must be on image's device, ", device.index(), ", got one on ",
              t.device().index(), t.is_cuda() ? "" : ", which is no GPU");
  };
  for (const OptionalTensor& t : {OptionalTensor(text), OptionalTensor(scale), bias, targets}) {
    if (t) check(*t);
  }
  for (const OptionalTensor& t : others) {
    if (t) check(*t);
  }
  ContrastiveInput input;
  input.problem = problem_of(image, text, targets, kind, smoothing, false);
  input.scale = vector_of(scale, "scale", 1);
  input.bias = vector_of(bias, "bias", 1);
  return input;
}

void run(const ContrastiveInput& input, const Tensor& image, Workspace workspace, Launch launch) {
  if (input.problem.rows == 0 || input.problem.columns == 0) return;
  const auto device = image.device();
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  const Tensor memory = torch::stable::empty({workspace(input)}, ScalarType::Byte, std::nullopt, device);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  const char* error = launch(input, memory.mutable_data_ptr(), stream);
  STD_TORCH_CHECK(error == nullptr, "CUDA refused to launch the contrastive_loss kernels: ", error);
}

void contrastive_forward(Tensor image, Tensor text, Tensor scale, OptionalTensor targets, bool totals, Tensor row_stats,
                         Tensor row_terms, Tensor column_stats, Tensor column_terms) {
  ContrastiveInput input = input_of(image, text, scale, std::nullopt, targets, ContrastiveKind::kSoftmax, 0.0,
                                    {row_stats, row_terms, column_stats, column_terms});
  set_statistics(input.problem, totals, row_stats, row_terms, column_stats, column_terms);
  run(input, image, &contrastive_statistics_workspace, &launch_contrastive_statistics);
}

void contrastive_backward(Tensor image, Tensor text, Tensor scale, OptionalTensor targets, bool levels, Tensor row_side,
                          Tensor column_side, OptionalTensor grad_image, OptionalTensor grad_text,
                          OptionalTensor sums) {
  ContrastiveInput input = input_of(image, text, scale, std::nullopt, targets, ContrastiveKind::kSoftmax, 0.0,
                                    {row_side, column_side, grad_image, grad_text, sums});
  set_sides(input.problem, levels, row_side, column_side);
  set_gradients(input.problem, image, text, grad_image, grad_text, sums);
  run(input, image, &contrastive_gradients_workspace, &launch_contrastive_gradients);
}

void contrastive_sigmoid(Tensor image, Tensor text, Tensor scale, OptionalTensor bias, OptionalTensor targets,
                         double smoothing, OptionalTensor row_grad, OptionalTensor row_loss, OptionalTensor grad_image,
                         OptionalTensor grad_text, OptionalTensor sums) {
  ContrastiveInput input = input_of(image, text, scale, bias, targets, ContrastiveKind::kSigmoid, smoothing,
                                    {row_grad, row_loss, grad_image, grad_text, sums});
  set_rows(input.problem, row_grad, row_loss, grad_image || grad_text || sums);
  set_gradients(input.problem, image, text, grad_image, grad_text, sums);
  run(input, image, &contrastive_gradients_workspace, &launch_contrastive_gradients);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mmkernels_cuda, m) {
  m.def(
      "contrastive_forward(Tensor image, Tensor text, Tensor scale, Tensor? targets, bool totals, "
      "Tensor(a!) row_stats, Tensor(b!) row_terms, Tensor(c!) column_stats, Tensor(d!) column_terms) -> ()");
  m.def(
      "contrastive_backward(Tensor image, Tensor text, Tensor scale, Tensor? targets, bool levels, "
      "Tensor row_side, Tensor column_side, Tensor(a!)? grad_image, Tensor(b!)? grad_text, Tensor(c!)? sums) -> ()");
  m.def(
      "contrastive_sigmoid(Tensor image, Tensor text, Tensor scale, Tensor? bias, Tensor? targets, float smoothing, "
      "Tensor? row_grad, Tensor(a!)? row_loss, Tensor(b!)? grad_image, Tensor(c!)? grad_text, Tensor(d!)? sums) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cuda, CUDA, m) {
  m.impl("contrastive_forward", TORCH_BOX(&contrastive_forward));
  m.impl("contrastive_backward", TORCH_BOX(&contrastive_backward));
  m.impl("contrastive_sigmoid", TORCH_BOX(&contrastive_sigmoid));
}

}  // namespace mmkernels
