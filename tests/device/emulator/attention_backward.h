// Runs the attention backward kernels of one stored type; one file each, for they take long to compile.
#pragma once

#include "cuda/launch/attention_backward_table.h"
#include "machine/run.h"

namespace emulator {

/// The kernels that serve the problem.
void run_backward(Run& run, const mmkernels::AttentionProblem& p);

void run_backward_half(Run& run, const mmkernels::AttentionProblem& p);
void run_backward_bfloat16(Run& run, const mmkernels::AttentionProblem& p);
void run_backward_float(Run& run, const mmkernels::AttentionProblem& p);

template <class Kernels, class T>
void run_backward_kernels(Run& run, const mmkernels::AttentionProblem& p) {
  namespace device = mmkernels::device;
  Scratch scratch;
  float* const statistics = static_cast<float*>(scratch.take_bytes("statistics", device::statistics_bytes(p)));
  device::for_each_backward_launch<Kernels, device::AttentionDelta<T>>(
      p, [&](auto kernel, device::BackwardLaunch launch) {
        Scratch own;
        launch.call.statistics = statistics;
        launch.call.scratch = static_cast<float*>(own.take_bytes("scratch", launch.scratch_bytes));
        run.launch_kernel<typename decltype(kernel)::Type>("attention_backward", launch.blocks, launch.call);
      });
}

template <class T>
void run_backward_of(Run& run, const mmkernels::AttentionProblem& p) {
  namespace device = mmkernels::device;
  device::with_head_dim(device::attention_dim(p), [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    device::with_backward_kernels<T, kDim>(
        p, [&](auto kernels) { run_backward_kernels<typename decltype(kernels)::Type, T>(run, p); });
  });
}

}  // namespace emulator
