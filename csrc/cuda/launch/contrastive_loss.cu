#include "contrastive_entry.h"

namespace mmkernels {
namespace {

using Serve = void (*)(device::ContrastiveRequest&);

Serve statistics(const ContrastiveInput& input) {
  return device::with_stored_type(input.problem.image.dtype, [](auto type) -> Serve {
    return &device::serve_statistics<typename decltype(type)::Type>;
  });
}

Serve gradients(const ContrastiveInput& input) {
  return device::with_stored_type(input.problem.image.dtype, [](auto type) -> Serve {
    return &device::serve_gradients<typename decltype(type)::Type>;
  });
}

int64_t bytes_of(const ContrastiveInput& input, Serve serve) {
  device::ContrastiveRequest request{input, nullptr, nullptr};
  serve(request);
  return request.bytes;
}

const char* launch(const ContrastiveInput& input, Serve serve, void* workspace, void* stream) {
  device::ContrastiveRequest request{input, workspace, static_cast<cudaStream_t>(stream)};
  serve(request);
  return request.error;
}

}  // namespace

int64_t contrastive_statistics_workspace(const ContrastiveInput& input) { return bytes_of(input, statistics(input)); }
int64_t contrastive_gradients_workspace(const ContrastiveInput& input) { return bytes_of(input, gradients(input)); }

const char* launch_contrastive_statistics(const ContrastiveInput& input, void* workspace, void* stream) {
  return launch(input, statistics(input), workspace, stream);
}
const char* launch_contrastive_gradients(const ContrastiveInput& input, void* workspace, void* stream) {
  return launch(input, gradients(input), workspace, stream);
}

}  // namespace mmkernels
