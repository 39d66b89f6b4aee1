// Entry points of the attention backward's kernels of one head dim, and their launches. Every attention_backward_<dim>.cu
// is this file for its dim.
#pragma once

#include <cuda_runtime_api.h>

#include "attention_backward_table.h"

MMK_NAMESPACE_BEGIN

/// One block a multiprocessor at least: without the 1 ptxas aims at more of them, and spills registers for it.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    attention_backward(const __grid_constant__ AttentionBackwardCall call) {
  Kernel(call).run();
}

/// What is asked of one head dim's kernels: with `launch`, their launches; without, `bytes` of memory.
struct BackwardRequest {
  const AttentionProblem& problem;
  char* workspace;
  cudaStream_t stream;
  bool launch;
  int64_t bytes;
  const char* error;
};

template <class Kernel>
const char* start(const BackwardLaunch& launch, cudaStream_t stream) {
  if (launch.blocks > INT32_MAX) return "the attention backward needs more blocks of threads than one launch can have";
  cudaError_t status = cudaSuccess;
  if (Kernel::kSharedBytes > 48 * 1024) {
    status = cudaFuncSetAttribute(attention_backward<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  Kernel::kSharedBytes);
  }
  if (status == cudaSuccess) {
    attention_backward<Kernel>
        <<<static_cast<unsigned>(launch.blocks), Kernel::kThreads, Kernel::kSharedBytes, stream>>>(launch.call);
    status = cudaGetLastError();
  }
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

/// The workspace holds the rows' statistics, and behind them the sums of one launch after the other.
template <class T, class Kernels>
void serve_backward(BackwardRequest& request) {
  const int64_t statistics = (statistics_bytes(request.problem) + 255) / 256 * 256;
  request.bytes = statistics;
  for_each_backward_launch<Kernels, AttentionDelta<T>>(request.problem, [&](auto kernel, BackwardLaunch launch) {
    request.bytes = larger(request.bytes, statistics + launch.scratch_bytes);
    if (!request.launch || request.error != nullptr || launch.blocks == 0) return;
    launch.call.statistics = reinterpret_cast<float*>(request.workspace);
    if (launch.scratch_bytes > 0) launch.call.scratch = reinterpret_cast<float*>(request.workspace + statistics);
    request.error = start<typename decltype(kernel)::Type>(launch, request.stream);
  });
}

template <int kDim>
void serve_backward_dim(BackwardRequest& request) {
  with_stored_type(request.problem.query.dtype, [&](auto type) {
    using T = typename decltype(type)::Type;
    with_backward_kernels<T, kDim>(request.problem,
                                   [&](auto kernels) { serve_backward<T, typename decltype(kernels)::Type>(request); });
  });
}

/// One a head dim, each in a source of its own.
void serve_backward_32(BackwardRequest& request);
void serve_backward_64(BackwardRequest& request);
void serve_backward_128(BackwardRequest& request);
void serve_backward_256(BackwardRequest& request);

MMK_NAMESPACE_END
