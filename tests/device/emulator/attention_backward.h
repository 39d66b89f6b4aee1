// Runs the attention backward kernels of one stored type; one file each, for they take long to compile.
#pragma once

#include <vector>

#include "attention.h"
#include "cuda/launch/attention_backward_table.h"

namespace emulator {

void run_backward_half(Run& run, AttentionArrays& arrays);
void run_backward_bfloat16(Run& run, AttentionArrays& arrays);
void run_backward_float(Run& run, AttentionArrays& arrays);

template <class Kernels, class T>
void run_backward_kernels(Run& run, AttentionArrays& arrays) {
  namespace device = mmkernels::device;
  py::array_t<float> statistics(device::statistics_bytes(arrays.problem) / 4);
  float* const rows = static_cast<float*>(arrays.output("statistics", statistics));
  device::for_each_backward_launch<Kernels, device::AttentionDelta<T>>(
      arrays.problem, [&](auto type, device::BackwardLaunch launch) {
        using Kernel = typename decltype(type)::Type;
        if (launch.blocks == 0) return;
        py::array_t<float> scratch(launch.scratch_bytes / 4);
        launch.call.statistics = rows;
        launch.call.scratch = static_cast<float*>(arrays.output("scratch", scratch));
        const mmkernels::AttentionBackwardCall& call = launch.call;
        run.launch({static_cast<int>(launch.blocks)}, Kernel::kThreads, Kernel::kSharedBytes,
                   [&] { Kernel(call).run(); });
      });
}

template <class T>
void run_backward(Run& run, AttentionArrays& arrays) {
  mmkernels::device::with_head_dim(mmkernels::device::attention_dim(arrays.problem), [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    mmkernels::device::with_backward_kernels<T, kDim>(
        arrays.problem, [&](auto kernels) { run_backward_kernels<typename decltype(kernels)::Type, T>(run, arrays); });
  });
}

}  // namespace emulator
