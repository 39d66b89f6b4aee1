// Entry points of the contrastive_loss kernels of one dtype, and their launches. Every contrastive_<dtype>.cu is
// this file for its dtype.
#pragma once

#include <cuda_runtime_api.h>

#include "contrastive_plan.h"

MMK_NAMESPACE_BEGIN

/// Blocks that a multiprocessor is to have at least; 0: as ptxas thinks best. Of the statistics of 16 bits that is three, in
/// 168 registers: free on sm_80, but from sm_100 on it makes the copies' addresses anew, 1.1 instead of 0.76 slots per kFLOP.
template <class Kernel>
constexpr int kLeastBlocks = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
template <class Tile>
constexpr int kLeastBlocks<StatisticsOfTile<Tile>> = sizeof(typename Tile::T) == 2 ? 2 : 0;
#endif

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, kLeastBlocks<Kernel>)
    contrastive_loss(const __grid_constant__ ContrastiveCall call) {
  Kernel kernel(call);
  kernel.run();
}

/// What is asked of one dtype's kernels: with `memory`, launches; without, `bytes` of it.
struct ContrastiveRequest {
  const ContrastiveInput& input;
  void* memory;
  cudaStream_t stream;
  int64_t bytes = 0;
  const char* error = nullptr;
};

/// Launches the kernels of a plan; after an error no more of them.
inline auto contrastive_launcher(ContrastiveRequest& request) {
  return [&request](auto kernel, int64_t blocks, const ContrastiveCall& call) {
    using Kernel = typename decltype(kernel)::Type;
    if (blocks == 0 || request.error != nullptr) return;
    if (blocks > INT32_MAX) {
      request.error = "contrastive_loss needs more blocks of threads than one launch can have";
      return;
    }
    cudaError_t status = cudaSuccess;
    if (Kernel::kSharedBytes > 48 * 1024) {
      status = cudaFuncSetAttribute(contrastive_loss<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    Kernel::kSharedBytes);
    }
    if (status == cudaSuccess) {
      contrastive_loss<Kernel>
          <<<static_cast<unsigned>(blocks), Kernel::kThreads, Kernel::kSharedBytes, request.stream>>>(call);
      status = cudaGetLastError();
    }
    if (status != cudaSuccess) request.error = cudaGetErrorString(status);
  };
}

template <class T>
void serve_statistics(ContrastiveRequest& request) {
  request.bytes =
      contrastive_statistics<ContrastiveKernels<T>>(request.input, request.memory, contrastive_launcher(request));
}

template <class T>
void serve_gradients(ContrastiveRequest& request) {
  const auto launch = contrastive_launcher(request);
  request.bytes = request.input.problem.kind == ContrastiveKind::kSigmoid
                      ? contrastive_gradients<ContrastiveKernels<T>, true>(request.input, request.memory, launch)
                      : contrastive_gradients<ContrastiveKernels<T>, false>(request.input, request.memory, launch);
}

// those of a dtype in a source of its own
extern template void serve_statistics<float>(ContrastiveRequest& request);
extern template void serve_statistics<Half>(ContrastiveRequest& request);
extern template void serve_statistics<BFloat16>(ContrastiveRequest& request);
extern template void serve_gradients<float>(ContrastiveRequest& request);
extern template void serve_gradients<Half>(ContrastiveRequest& request);
extern template void serve_gradients<BFloat16>(ContrastiveRequest& request);

MMK_NAMESPACE_END
