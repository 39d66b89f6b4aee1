// A double of the device side of contrastive_loss: csrc/ops/cuda/contrastive.cpp as it is, above the CPU's kernels.
//
// Tensors on the CPU then take the way of a GPU's: targets are not checked, scale and bias are read only here, as a kernel
// would. Linked with the objects of csrc/cpu.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstring>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cuda/launch/contrastive.h"

// Those of torch need a GPU.
extern "C" {
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = reinterpret_cast<void*>(1234);
  return 0;
}
}

namespace mmkernels {
namespace {

constexpr int64_t kWorkspace = 1000;

template <class Kernel>
const char* run(const ContrastiveInput& input, void* workspace, void* stream, Kernel kernel) {
  if (stream != reinterpret_cast<void*>(1234)) return "the wrong stream";
  std::memset(workspace, 0xFF, kWorkspace);
  ContrastiveProblem p = input.problem;
  if (p.scale != 1.0f || p.bias != 0.0f) return "the host read scale or bias";
  p.scale = *input.scale;
  if (input.bias != nullptr) p.bias = *input.bias;
  Threads threads;
  threads.run = [](int64_t count, void* context, void (*work)(void*, int64_t)) {
    for (int64_t i = 0; i < count; ++i) work(context, i);
  };
  kernel(p, threads);
  return nullptr;
}

}  // namespace

int64_t contrastive_statistics_workspace(const ContrastiveInput&) { return kWorkspace; }
int64_t contrastive_gradients_workspace(const ContrastiveInput&) { return kWorkspace; }
const char* launch_contrastive_statistics(const ContrastiveInput& input, void* workspace, void* stream) {
  return run(input, workspace, stream, kernels().contrastive.forward);
}
const char* launch_contrastive_gradients(const ContrastiveInput& input, void* workspace, void* stream) {
  return run(input, workspace, stream, kernels().contrastive.backward);
}

}  // namespace mmkernels
