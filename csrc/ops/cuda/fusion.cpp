// mmkernels_cuda::concat_fusion_forward and concat_fusion_backward on torch's stable ABI. Schema: fusion_entry.h.
//
// Nothing here waits for the device or reads its memory, and the workspace comes from torch's allocator, so that calls
// may be captured in a CUDA graph.

#include "../../cuda/launch/fusion.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "../../cuda/launch/device.h"
#include "../fusion_entry.h"

namespace mmkernels {
namespace {

using Workspace = int64_t (*)(const FusionProblem&, int);
using Launch = const char* (*)(const FusionProblem&, int, void*, void*);

void run(const FusionProblem& p, const Tensor& weight, Workspace workspace, Launch launch) {
  MMK_CHECK(p.num_sources <= kMaxCudaSources, "the CUDA kernels take at most ", kMaxCudaSources, " inputs, got ",
            p.num_sources);
  MMK_CHECK(p.rows <= INT32_MAX && p.out <= INT32_MAX && p.width <= INT32_MAX,
            "the CUDA kernels take less than 2^31 rows, features and outputs, got ", p.rows, ", ", p.width, " and ",
            p.out);
  if (p.rows == 0) return;
  const auto device = weight.device();
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  const int processors = cuda_processors(device.index());
  const int64_t bytes = workspace(p, processors);
  const Tensor memory = torch::stable::empty({bytes}, ScalarType::Byte, std::nullopt, device);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  const char* error = launch(p, processors, memory.mutable_data_ptr(), stream);
  STD_TORCH_CHECK(error == nullptr, "CUDA refused to launch the concat_fusion kernels: ", error);
}

struct Cuda {
  static constexpr bool kOnDevice = true;
  static void forward(const FusionProblem& p, const Tensor& weight) {
    run(p, weight, &fusion_forward_workspace, &launch_fusion_forward);
  }
  static void backward(const FusionProblem& p, const Tensor& weight) {
    run(p, weight, &fusion_backward_workspace, &launch_fusion_backward);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mmkernels_cuda, m) {
  m.def(MMK_FUSION_FORWARD_SCHEMA);
  m.def(MMK_FUSION_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cuda, CUDA, m) {
  m.impl("concat_fusion_forward", TORCH_BOX(&fusion_forward<Cuda>));
  m.impl("concat_fusion_backward", TORCH_BOX(&fusion_backward<Cuda>));
}

}  // namespace mmkernels
