#include "fusion.h"
#include "fusion_type_calls.h"
#include "type_of.h"

namespace mmkernels {
namespace {

/// f(FusionType) of the operands' dtype.
template <class F>
void with_type(DType dtype, const F& f) {
  device::with_stored_type(dtype, [&](auto type) { f(device::FusionType<typename decltype(type)::Type>{}); });
}

}  // namespace

int64_t fusion_forward_workspace(const FusionProblem& p, int processors) {
  device::FusionMeasure measure;
  with_type(p.dtype, [&](auto type) { type.forward(p, processors, measure); });
  return measure.bytes;
}

int64_t fusion_backward_workspace(const FusionProblem& p, int processors) {
  device::FusionMeasure measure;
  with_type(p.dtype, [&](auto type) { type.backward(p, processors, measure); });
  return measure.bytes;
}

const char* launch_fusion_forward(const FusionProblem& p, int processors, void* workspace, void* stream) {
  device::FusionStream device(workspace, stream);
  with_type(p.dtype, [&](auto type) { type.forward(p, processors, device); });
  return device.error;
}

const char* launch_fusion_backward(const FusionProblem& p, int processors, void* workspace, void* stream) {
  device::FusionStream device(workspace, stream);
  with_type(p.dtype, [&](auto type) { type.backward(p, processors, device); });
  return device.error;
}

}  // namespace mmkernels
