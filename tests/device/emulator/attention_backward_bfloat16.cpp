#include "attention_backward.h"

namespace emulator {

void run_backward_bfloat16(Run& run, const mmkernels::AttentionProblem& p) {
  run_backward_of<mmkernels::BFloat16>(run, p);
}

}  // namespace emulator
