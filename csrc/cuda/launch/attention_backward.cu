#include "attention.h"
#include "attention_backward_entry.h"

MMK_NAMESPACE_BEGIN
namespace {

void serve_any_backward(BackwardRequest& request) {
  switch (attention_dim(request.problem)) {
    case 32:
      return serve_backward_32(request);
    case 64:
      return serve_backward_64(request);
    case 128:
      return serve_backward_128(request);
    default:
      return serve_backward_256(request);
  }
}

}  // namespace
MMK_NAMESPACE_END

namespace mmkernels {

int64_t attention_backward_workspace(const AttentionProblem& problem, int) {
  device::BackwardRequest request{problem, nullptr, nullptr, false, 0, nullptr};
  device::serve_any_backward(request);
  return (request.bytes + 255) / 256 * 256;
}

const char* launch_attention_backward(const AttentionProblem& problem, int, void* workspace, void* stream) {
  device::BackwardRequest request{problem, static_cast<char*>(workspace), static_cast<cudaStream_t>(stream), true, 0,
                                  nullptr};
  device::serve_any_backward(request);
  return request.error;
}

}  // namespace mmkernels
