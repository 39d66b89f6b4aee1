// The attention backward kernels of fp16 and head dim 64: the general ones where PLANTED_GENERAL is 1, else the others.
#include "attention_backward.h"

#include <stdexcept>

namespace emulator {

void run_backward(Run& run, const mmkernels::AttentionProblem& p) {
  const bool general = mmkernels::device::is_general(p) || !mmkernels::device::backward_whole_chunks(p);
  if (general != (PLANTED_GENERAL == 1)) throw std::invalid_argument("the problem has other kernels");
  using Kernels = mmkernels::device::BackwardKernels<mmkernels::Half, 64, PLANTED_GENERAL == 1>;
  run_backward_kernels<Kernels, mmkernels::Half>(run, p);
}

}  // namespace emulator
