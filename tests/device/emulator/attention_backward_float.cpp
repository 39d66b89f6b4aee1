#include "attention_backward.h"

namespace emulator {

void run_backward_float(Run& run, AttentionArrays& arrays) { run_backward<float>(run, arrays); }

}  // namespace emulator
