#include "attention_backward.h"

namespace emulator {

void run_backward_bfloat16(Run& run, AttentionArrays& arrays) { run_backward<mmkernels::BFloat16>(run, arrays); }

}  // namespace emulator
