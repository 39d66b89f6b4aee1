// mmkernels_cpu::concat_fusion_forward and concat_fusion_backward on torch's stable ABI. Schema: fusion_entry.h.

#include "fusion_entry.h"

#include "../cpu/kernels.h"
#include "threads.h"

namespace mmkernels {
namespace {

struct Cpu {
  static constexpr bool kOnDevice = false;
  static void forward(const FusionProblem& p, const Tensor&) { kernels().fusion.forward(p, torch_threads()); }
  static void backward(const FusionProblem& p, const Tensor&) { kernels().fusion.backward(p, torch_threads()); }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mmkernels_cpu, m) {
  m.def(MMK_FUSION_FORWARD_SCHEMA);
  m.def(MMK_FUSION_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cpu, CPU, m) {
  m.impl("concat_fusion_forward", TORCH_BOX(&fusion_forward<Cpu>));
  m.impl("concat_fusion_backward", TORCH_BOX(&fusion_backward<Cpu>));
}

}  // namespace mmkernels
