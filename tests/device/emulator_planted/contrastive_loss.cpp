// The contrastive_loss kernels of fp16.
#include "contrastive_kernels.h"

namespace emulator {

int64_t run_contrastive_statistics(Run& run, const mmkernels::ContrastiveInput& input, int64_t band_pairs) {
  return run_statistics_of<mmkernels::Half>(run, input, band_pairs);
}

int64_t run_contrastive_gradients(Run& run, const mmkernels::ContrastiveInput& input, int64_t band_pairs) {
  return run_gradients_of<mmkernels::Half>(run, input, band_pairs);
}

}  // namespace emulator
