// Runs the contrastive_loss kernels of one stored type.
#pragma once

#include "contrastive.h"
#include "cuda/launch/contrastive_plan.h"

namespace emulator {

/// `plan(workspace, launch, band_pairs)` is one of csrc/cuda/launch/contrastive_plan.h. Returns the number of launches.
template <class Plan>
int64_t run_contrastive(Run& run, int64_t band_pairs, const Plan& plan) {
  if (band_pairs == 0) band_pairs = mmkernels::device::kContrastiveBandPairs;
  int64_t launches = 0;
  const auto launch = [&](auto kernel, int64_t blocks, const mmkernels::ContrastiveCall& call) {
    launches += blocks > 0;
    run.launch_kernel<typename decltype(kernel)::Type>("contrastive_loss", blocks, call);
  };
  Scratch scratch;
  const int64_t bytes = plan(nullptr, launch, band_pairs) + 16;  // so that it is never nothing
  plan(scratch.take_bytes("workspace", bytes), launch, band_pairs);
  return launches;
}

template <class T>
int64_t run_statistics_of(Run& run, const mmkernels::ContrastiveInput& input, int64_t band_pairs) {
  using Kernels = mmkernels::device::ContrastiveKernels<T>;
  return run_contrastive(run, band_pairs, [&](void* workspace, const auto& launch, int64_t pairs) {
    return mmkernels::device::contrastive_statistics<Kernels>(input, workspace, launch, pairs);
  });
}

template <class T>
int64_t run_gradients_of(Run& run, const mmkernels::ContrastiveInput& input, int64_t band_pairs) {
  using Kernels = mmkernels::device::ContrastiveKernels<T>;
  return run_contrastive(run, band_pairs, [&](void* workspace, const auto& launch, int64_t pairs) {
    if (input.problem.kind == mmkernels::ContrastiveKind::kSigmoid)
      return mmkernels::device::contrastive_gradients<Kernels, true>(input, workspace, launch, pairs);
    return mmkernels::device::contrastive_gradients<Kernels, false>(input, workspace, launch, pairs);
  });
}

}  // namespace emulator
