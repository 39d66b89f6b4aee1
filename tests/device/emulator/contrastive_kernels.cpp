// The contrastive_loss kernels of every stored type.
#include "contrastive_kernels.h"

#include "cuda/launch/type_of.h"

namespace emulator {

int64_t run_contrastive_statistics(Run& run, const mmkernels::ContrastiveInput& input, int64_t band_pairs) {
  return mmkernels::device::with_stored_type(input.problem.image.dtype, [&](auto type) {
    return run_statistics_of<typename decltype(type)::Type>(run, input, band_pairs);
  });
}

int64_t run_contrastive_gradients(Run& run, const mmkernels::ContrastiveInput& input, int64_t band_pairs) {
  return mmkernels::device::with_stored_type(input.problem.image.dtype, [&](auto type) {
    return run_gradients_of<typename decltype(type)::Type>(run, input, band_pairs);
  });
}

}  // namespace emulator
