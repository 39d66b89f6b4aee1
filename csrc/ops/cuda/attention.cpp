// mmkernels_cuda::attention_forward and attention_backward on torch's stable ABI. Schema: docs/architecture.md.
//
// Nothing here waits for the device or reads its memory, and the workspace comes from torch's allocator, so that calls
// may be captured in a CUDA graph. Rows that a mask leaves empty are resolved before (ops/attention/empty_rows.py).

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/ops.h>

#include <string>

#include "../../cuda/launch/attention.h"
#include "../../cuda/launch/device.h"
#include "../attention_entry.h"

namespace mmkernels {
namespace {

using Workspace = int64_t (*)(const AttentionProblem&, int);
using Launch = const char* (*)(const AttentionProblem&, int, void*, void*);

void run(const AttentionProblem& p, const Tensor& query, Workspace workspace, Launch launch) {
  MMK_CHECK(p.num_segments <= kMaxCudaSegments, "the CUDA kernels take at most ", kMaxCudaSegments, " segments, got ",
            p.num_segments);
  MMK_CHECK(p.dim_qk <= kMaxCudaHeadDim && p.dim_v <= kMaxCudaHeadDim, "the CUDA kernels take head dims to ",
            kMaxCudaHeadDim, ", got ", p.dim_qk, " and ", p.dim_v);
  MMK_CHECK(!p.mask.unmask_empty_rows, "empty rows must be unmasked before the CUDA kernels are called");
  if (p.batch == 0 || p.heads_q == 0 || p.len_q == 0) return;
  const auto device = query.device();
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  const int processors = cuda_processors(device.index());
  const int64_t bytes = workspace(p, processors);
  const Tensor memory = torch::stable::empty({bytes}, ScalarType::Byte, std::nullopt, device);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  const char* error = launch(p, processors, memory.mutable_data_ptr(), stream);
  STD_TORCH_CHECK(error == nullptr, "CUDA refused to launch the attention kernels: ", error);
}

struct Cuda {
  static constexpr Values kValues = Values::kOnDevice;
  static void forward(const AttentionProblem& p, const Tensor& query) {
    run(p, query, &attention_forward_workspace, &launch_attention_forward);
  }
  static void backward(const AttentionProblem& p, const Tensor& query) {
    run(p, query, &attention_backward_workspace, &launch_attention_backward);
  }
};

/// What the library was compiled for: "8.0 9.0 12.0+PTX".
std::string architectures() { return MMK_CUDA_ARCHITECTURES; }

}  // namespace

STABLE_TORCH_LIBRARY(mmkernels_cuda, m) {
  m.def(MMK_FORWARD_SCHEMA);
  m.def(MMK_BACKWARD_SCHEMA);
  m.def("architectures() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cuda, CUDA, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward<Cuda>));
  m.impl("attention_backward", TORCH_BOX(&attention_backward<Cuda>));
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cuda, CompositeExplicitAutograd, m) {
  m.impl("architectures", TORCH_BOX(&architectures));
}

}  // namespace mmkernels
