// A double of the device side of the CUDA library: csrc/ops/cuda as it is, above kernels and a runtime that the CPU has.
//
// Tensors on the CPU then take the way of a GPU's: problems are made without reading indices, flags or seeds, which this
// double reads as a kernel would. Linked with the objects of csrc/cpu.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <string>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cuda/launch/attention.h"
#include "../../csrc/cuda/launch/device.h"
#include "stream_double.h"

namespace mmkernels {
namespace {

std::string refusal;

const char* run(const AttentionProblem& problem, int processors, void* workspace, void* stream,
                void (*kernel)(const AttentionProblem&, const Threads&)) {
  if (processors != 7 || stream != kStream) return "the wrong device or stream";
  if (!refusal.empty()) return refusal.c_str();
  std::memset(workspace, 0xFF, kWorkspace);
  AttentionProblem p = problem;
  if (p.dropout.active) {
    if (p.dropout.key0 != 0 || p.dropout.key1 != 0) return "the host read the seed";
    p.dropout.key0 = static_cast<uint32_t>(*p.dropout.seed);
    p.dropout.key1 = static_cast<uint32_t>(*p.dropout.seed >> 32);
  }
  if (p.mask.exact) {
    if (!p.mask.visible) return "the host read interval_exact";
    if (*p.mask.exact) p.mask.visible = nullptr;
  }
  kernel(p, one_thread());
  return nullptr;
}

}  // namespace

int cuda_processors(int) { return 7; }
int64_t attention_forward_workspace(const AttentionProblem&, int) { return kWorkspace; }
int64_t attention_backward_workspace(const AttentionProblem&, int) { return kWorkspace; }
const char* launch_attention_forward(const AttentionProblem& p, int processors, void* workspace, void* stream) {
  return run(p, processors, workspace, stream, kernels().attention.forward);
}
const char* launch_attention_backward(const AttentionProblem& p, int processors, void* workspace, void* stream) {
  return run(p, processors, workspace, stream, kernels().attention.backward);
}

namespace {
void refuse(std::string text) { refusal = text; }
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mmkernels_cuda, m) { m.def("refuse(str text) -> ()"); }
STABLE_TORCH_LIBRARY_IMPL(mmkernels_cuda, CompositeExplicitAutograd, m) { m.impl("refuse", TORCH_BOX(&refuse)); }

}  // namespace mmkernels
