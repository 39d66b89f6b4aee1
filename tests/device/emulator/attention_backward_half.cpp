#include "attention_backward.h"

namespace emulator {

void run_backward_half(Run& run, const mmkernels::AttentionProblem& p) { run_backward_of<mmkernels::Half>(run, p); }

}  // namespace emulator
