// Runs the contrastive_loss kernels.
#pragma once

#include "cuda/launch/contrastive.h"
#include "machine/run.h"

namespace emulator {

/// The launches that serve the input, in bands of so many pairs (0: the plan's own number). Returns how many they were.
int64_t run_contrastive_statistics(Run& run, const mmkernels::ContrastiveInput& input, int64_t band_pairs);
int64_t run_contrastive_gradients(Run& run, const mmkernels::ContrastiveInput& input, int64_t band_pairs);

}  // namespace emulator
