#include "fusion.h"
#include "fusion_device.h"
#include "fusion_plan.h"

namespace mmkernels {
namespace {

template <class Device>
void run(const FusionProblem& p, int processors, Device& device) {
  device::with_fusion_type(
      p.dtype, [&](auto type) { device::FusionForward<decltype(type), Device>(p, processors, device).run(); });
}

}  // namespace

int64_t fusion_forward_workspace(const FusionProblem& problem, int processors) {
  device::FusionMeasure measure;
  run(problem, processors, measure);
  return measure.bytes;
}

const char* launch_fusion_forward(const FusionProblem& problem, int processors, void* workspace, void* stream) {
  device::FusionStream device(workspace, stream);
  run(problem, processors, device);
  return device.error;
}

}  // namespace mmkernels
