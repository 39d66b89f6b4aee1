// Entry points of the attention forward kernels of one head dim, and their launches. Every attention_forward_<dim>.cu is
// this file for its dim.
#pragma once

#include <cuda_runtime_api.h>

#include "attention.h"
#include "attention_table.h"

MMK_NAMESPACE_BEGIN

/// One block a multiprocessor at least: without the 1 ptxas aims at more of them, and spills registers for it.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1) attention_forward(const __grid_constant__ AttentionCall call) {
  Kernel(call).run();
}

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads) attention_merge(const __grid_constant__ AttentionCall call) {
  Kernel(call).run_merge();
}

/// What is asked of one head dim's kernels: with `stream`, a launch; without, `bytes` of memory.
struct ForwardRequest {
  const AttentionProblem& problem;
  int processors;
  float* scratch;
  cudaStream_t stream;
  bool launch;
  int64_t bytes;
  const char* error;
};

template <class Kernel>
void serve(ForwardRequest& request) {
  ForwardPlan plan = plan_forward<Kernel>(request.problem, request.processors);
  request.bytes = plan.scratch_bytes;
  if (!request.launch || plan.blocks == 0) return;
  if (plan.blocks > INT32_MAX) {
    request.error = "attention needs more blocks of threads than one launch can have";
    return;
  }
  plan.call.scratch = plan.scratch_bytes > 0 ? request.scratch : nullptr;
  cudaError_t status = cudaSuccess;
  if (Kernel::kSharedBytes > 48 * 1024) {
    status = cudaFuncSetAttribute(attention_forward<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  Kernel::kSharedBytes);
  }
  if (status == cudaSuccess) {
    attention_forward<Kernel>
        <<<static_cast<unsigned>(plan.blocks), Kernel::kThreads, Kernel::kSharedBytes, request.stream>>>(plan.call);
    if (plan.merge_blocks > 0) {
      attention_merge<Kernel>
          <<<static_cast<unsigned>(plan.merge_blocks), Kernel::kThreads, 0, request.stream>>>(plan.call);
    }
    status = cudaGetLastError();
  }
  if (status != cudaSuccess) request.error = cudaGetErrorString(status);
}

template <int kDim>
void serve_dim(ForwardRequest& request) {
  with_stored_type(request.problem.query.dtype, [&](auto type) {
    with_forward_kernel<typename decltype(type)::Type, kDim>(
        forward_kind(request.problem), [&](auto kernel) { serve<typename decltype(kernel)::Type>(request); });
  });
}

/// One a head dim, each in a source of its own.
void serve_forward_32(ForwardRequest& request);
void serve_forward_64(ForwardRequest& request);
void serve_forward_128(ForwardRequest& request);
void serve_forward_256(ForwardRequest& request);

MMK_NAMESPACE_END
