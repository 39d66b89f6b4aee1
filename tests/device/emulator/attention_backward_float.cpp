#include "attention_backward.h"

namespace emulator {

void run_backward_float(Run& run, const mmkernels::AttentionProblem& p) { run_backward_of<float>(run, p); }

}  // namespace emulator
