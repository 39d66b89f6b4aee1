// The emulator as the device of concat_fusion's launches (csrc/cuda/launch/fusion_plan.h).
#pragma once

#include "core/fusion_problem.h"
#include "cuda/scalar.h"
#include "machine/run.h"

namespace emulator {

struct FusionDevice {
  Run& run;
  std::vector<std::pair<int64_t, int>> told;  // (blocks, threads) of every launch
  Scratch scratch;

  template <class X>
  X* take(int64_t count) {
    return scratch.take<X>(count);
  }

  template <class Kernel>
  void launch(const typename Kernel::Call& call, int64_t blocks) {
    told.emplace_back(blocks, static_cast<int>(Kernel::kThreads));
    run.launch_kernel<Kernel>("fusion_entry", blocks, call);
  }
};

/// The launches that serve the problem.
void run_fusion_forward(const mmkernels::FusionProblem& p, int processors, FusionDevice& device);
void run_fusion_backward(const mmkernels::FusionProblem& p, int processors, FusionDevice& device);

}  // namespace emulator
