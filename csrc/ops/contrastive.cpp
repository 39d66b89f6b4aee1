// mmkernels_cpu::contrastive_forward and contrastive_backward (softmax) and contrastive_sigmoid (both directions in one) on
// torch's stable ABI.

#include "../cpu/kernels.h"
#include "lower_contrastive.h"
#include "threads.h"

namespace mmkernels {
namespace {

ContrastiveProblem readable(const Tensor& image, const Tensor& text, double scale, double bias,
                            const OptionalTensor& targets, ContrastiveKind kind, double smoothing) {
  ContrastiveProblem p = problem_of(image, text, targets, kind, smoothing, true);
  p.scale = static_cast<float>(scale);
  p.bias = static_cast<float>(bias);
  return p;
}

void contrastive_forward(Tensor image, Tensor text, double scale, OptionalTensor targets, bool totals, Tensor row_stats,
                         Tensor row_terms, Tensor column_stats, Tensor column_terms) {
  ContrastiveProblem p = readable(image, text, scale, 0.0, targets, ContrastiveKind::kSoftmax, 0.0);
  set_statistics(p, totals, row_stats, row_terms, column_stats, column_terms);
  kernels().contrastive.forward(p, torch_threads());
}

void contrastive_backward(Tensor image, Tensor text, double scale, OptionalTensor targets, bool levels, Tensor row_side,
                          Tensor column_side, OptionalTensor grad_image, OptionalTensor grad_text,
                          OptionalTensor sums) {
  ContrastiveProblem p = readable(image, text, scale, 0.0, targets, ContrastiveKind::kSoftmax, 0.0);
  set_sides(p, levels, row_side, column_side);
  set_gradients(p, image, text, grad_image, grad_text, sums);
  kernels().contrastive.backward(p, torch_threads());
}

void contrastive_sigmoid(Tensor image, Tensor text, double scale, double bias, OptionalTensor targets, double smoothing,
                         OptionalTensor row_grad, OptionalTensor row_loss, OptionalTensor grad_image,
                         OptionalTensor grad_text, OptionalTensor sums) {
  ContrastiveProblem p = readable(image, text, scale, bias, targets, ContrastiveKind::kSigmoid, smoothing);
  set_rows(p, row_grad, row_loss, grad_image || grad_text || sums);
  set_gradients(p, image, text, grad_image, grad_text, sums);
  kernels().contrastive.backward(p, torch_threads());
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
