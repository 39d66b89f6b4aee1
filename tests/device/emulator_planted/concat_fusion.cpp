// The kernels of concat_fusion of fp16.
#include "cuda/launch/fusion_backward_plan.h"
#include "fusion_device.h"

namespace emulator {

void run_fusion_forward(const mmkernels::FusionProblem& p, int processors, FusionDevice& device) {
  mmkernels::device::FusionForward<mmkernels::Half, FusionDevice>(p, processors, device).run();
}

void run_fusion_backward(const mmkernels::FusionProblem& p, int processors, FusionDevice& device) {
  mmkernels::device::FusionBackward<mmkernels::Half, FusionDevice>(p, processors, device).run();
}

}  // namespace emulator
