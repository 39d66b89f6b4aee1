#include "attention_backward.h"

namespace emulator {

void run_backward_half(Run& run, AttentionArrays& arrays) { run_backward<mmkernels::Half>(run, arrays); }

}  // namespace emulator
