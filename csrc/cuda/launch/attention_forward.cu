#include "attention.h"

#include "attention_entry.h"

MMK_NAMESPACE_BEGIN
namespace {

void serve_forward(ForwardRequest& request) {
  switch (attention_dim(request.problem)) {
    case 32:
      return serve_forward_32(request);
    case 64:
      return serve_forward_64(request);
    case 128:
      return serve_forward_128(request);
    default:
      return serve_forward_256(request);
  }
}

}  // namespace
MMK_NAMESPACE_END

namespace mmkernels {

int64_t attention_forward_workspace(const AttentionProblem& problem, int processors) {
  device::ForwardRequest request{problem, processors, nullptr, nullptr, false, 0, nullptr};
  device::serve_forward(request);
  return (request.bytes + 255) / 256 * 256;
}

const char* launch_attention_forward(const AttentionProblem& problem, int processors, void* workspace, void* stream) {
  device::ForwardRequest request{
      problem, processors, static_cast<float*>(workspace), static_cast<cudaStream_t>(stream), true, 0, nullptr};
  device::serve_forward(request);
  return request.error;
}

}  // namespace mmkernels
