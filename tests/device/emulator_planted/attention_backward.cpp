// The attention backward kernels of fp16 and head dim 64: the general ones where PLANTED_GENERAL is 1, else the others. With
// PLANTED_ONE_WARP those of fp32 and head dim 256, whose blocks have one warp.
#include "attention_backward.h"

#include <stdexcept>

namespace emulator {

void run_backward(Run& run, const mmkernels::AttentionProblem& p) {
  const bool general = mmkernels::device::is_general(p) || !mmkernels::device::backward_whole_chunks(p);
#ifdef PLANTED_ONE_WARP
  using T = float;
  constexpr auto kDType = mmkernels::DType::kFloat32;
  constexpr int kDim = 256;
#else
  using T = mmkernels::Half;
  constexpr auto kDType = mmkernels::DType::kFloat16;
  constexpr int kDim = 64;
#endif
  if (general != (PLANTED_GENERAL == 1) || p.query.dtype != kDType)
    throw std::invalid_argument("the problem has other kernels");
  run_backward_kernels<mmkernels::device::BackwardKernels<T, kDim, PLANTED_GENERAL == 1>, T>(run, p);
}

}  // namespace emulator
