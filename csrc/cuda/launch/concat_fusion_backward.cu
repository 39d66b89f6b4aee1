#include "fusion.h"
#include "fusion_backward_plan.h"
#include "fusion_device.h"

namespace mmkernels {
namespace {

template <class Device>
void run(const FusionProblem& p, int processors, Device& device) {
  device::with_fusion_type(
      p.dtype, [&](auto type) { device::FusionBackward<decltype(type), Device>(p, processors, device).run(); });
}

}  // namespace

int64_t fusion_backward_workspace(const FusionProblem& problem, int processors) {
  device::FusionMeasure measure;
  run(problem, processors, measure);
  return measure.bytes;
}

const char* launch_fusion_backward(const FusionProblem& problem, int processors, void* workspace, void* stream) {
  device::FusionStream device(workspace, stream);
  run(problem, processors, device);
  return device.error;
}

}  // namespace mmkernels
