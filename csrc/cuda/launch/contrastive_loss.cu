#include "contrastive_entry.h"

namespace mmkernels {
namespace {

using Serve = void (*)(device::ContrastiveRequest&);

Serve of_dtype(const ContrastiveInput& input, Serve of_float, Serve of_half, Serve of_bfloat16) {
  switch (input.problem.image.dtype) {
    case DType::kFloat16:
      return of_half;
    case DType::kBFloat16:
      return of_bfloat16;
    default:
      return of_float;
  }
}

Serve statistics(const ContrastiveInput& input) {
  return of_dtype(input, &device::serve_statistics<float>, &device::serve_statistics<Half>,
                  &device::serve_statistics<BFloat16>);
}

Serve gradients(const ContrastiveInput& input) {
  return of_dtype(input, &device::serve_gradients<float>, &device::serve_gradients<Half>,
                  &device::serve_gradients<BFloat16>);
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
