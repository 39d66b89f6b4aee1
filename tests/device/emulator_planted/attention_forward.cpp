// The attention forward kernel PLANTED_KERNEL (csrc/cuda/launch/attention_table.h) of fp16 and head dim 64.
#include "attention_forward.h"

#include <stdexcept>

#include "cuda/launch/attention_table.h"

#define PLANTED_KIND_OF(kernel) k##kernel
#define PLANTED_KIND(kernel) PLANTED_KIND_OF(kernel)

namespace emulator {

ForwardTold run_forward(Run& run, const mmkernels::AttentionProblem& p, ForwardKind kind, int processors) {
  if (kind != ForwardKind::PLANTED_KIND(PLANTED_KERNEL)) throw std::invalid_argument("the problem has another kernel");
  using Kernels = mmkernels::device::ForwardKernels<mmkernels::Half, 64>;
  return run_forward_kernel<Kernels::PLANTED_KERNEL>(run, p, processors);
}

}  // namespace emulator
