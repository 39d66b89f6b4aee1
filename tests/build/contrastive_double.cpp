// A double of the device side of contrastive_loss: csrc/ops/cuda/contrastive.cpp as it is, above the CPU's kernels.
//
// Tensors on the CPU then take the way of a GPU's: targets are not checked, scale and bias are read only here, as a kernel
// would. Linked with the objects of csrc/cpu.
#include <cstring>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cuda/launch/contrastive.h"
#include "stream_double.h"

namespace mmkernels {
namespace {

template <class Kernel>
const char* run(const ContrastiveInput& input, void* workspace, void* stream, Kernel kernel) {
  if (stream != kStream) return "the wrong stream";
  std::memset(workspace, 0xFF, kWorkspace);
  ContrastiveProblem p = input.problem;
  if (p.scale != 1.0f || p.bias != 0.0f) return "the host read scale or bias";
  p.scale = *input.scale;
  if (input.bias != nullptr) p.bias = *input.bias;
  kernel(p, one_thread());
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
