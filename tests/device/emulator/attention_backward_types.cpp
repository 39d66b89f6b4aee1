// The choice of a stored type's attention backward kernels.
#include "attention_backward.h"

namespace emulator {

void run_backward(Run& run, const mmkernels::AttentionProblem& p) {
  switch (p.query.dtype) {
    case mmkernels::DType::kFloat16:
      return run_backward_half(run, p);
    case mmkernels::DType::kBFloat16:
      return run_backward_bfloat16(run, p);
    case mmkernels::DType::kFloat32:
      return run_backward_float(run, p);
  }
}

}  // namespace emulator
