// The two devices that fusion_plan.h runs on: a stream, and one that only measures the workspace.
#pragma once

#include <cuda_runtime_api.h>

#include "../../core/problem.h"
#include "../scalar.h"

MMK_NAMESPACE_BEGIN

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    fusion_entry(const __grid_constant__ typename Kernel::Call call) {
  Kernel(call).run();
}

/// Scratch is cut from one piece of memory, each part aligned to 256 bytes.
struct FusionWorkspace {
  char* memory = nullptr;
  int64_t bytes = 0;

  template <class X>
  X* take(int64_t count) {
    char* part = memory + bytes;
    bytes += ceil_div(count * static_cast<int64_t>(sizeof(X)), 256) * 256;
    return reinterpret_cast<X*>(part);
  }
};

struct FusionMeasure : FusionWorkspace {
  FusionMeasure() { memory = reinterpret_cast<char*>(256); }  // an address, as a plan expects; nothing reads there

  template <class Kernel>
  void launch(const typename Kernel::Call&, int64_t) {}
};

struct FusionStream : FusionWorkspace {
  cudaStream_t stream;
  const char* error = nullptr;

  FusionStream(void* workspace, void* s) : stream(static_cast<cudaStream_t>(s)) {
    memory = static_cast<char*>(workspace);
  }

  template <class Kernel>
  void launch(const typename Kernel::Call& call, int64_t blocks) {
    if (error || blocks == 0) return;
    if (blocks > INT32_MAX) {
      error = "concat_fusion needs more blocks of threads than one launch can have";
      return;
    }
    cudaError_t status = cudaSuccess;
    if (Kernel::kSharedBytes > 48 * 1024) {
      status =
          cudaFuncSetAttribute(fusion_entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kSharedBytes);
    }
    if (status == cudaSuccess) {
      fusion_entry<Kernel><<<static_cast<unsigned>(blocks), Kernel::kThreads, Kernel::kSharedBytes, stream>>>(call);
      status = cudaGetLastError();
    }
    if (status != cudaSuccess) error = cudaGetErrorString(status);
  }
};

MMK_NAMESPACE_END
