// The kernels of concat_fusion of fp16, with small tiles alone: in half the time, and problems here ask for no others.
#include "cuda/launch/fusion_backward_plan.h"
#include "fusion_device.h"

MMK_NAMESPACE_BEGIN

template <bool kWhole>
struct FusionTile<Half, 4, 2, kWhole> : FusionTile<Half, 2, 1, kWhole> {};

MMK_NAMESPACE_END

namespace emulator {

void run_fusion_forward(const mmkernels::FusionProblem& p, int processors, FusionDevice& device) {
  mmkernels::device::FusionForward<mmkernels::Half, FusionDevice>(p, processors, device).run();
}

void run_fusion_backward(const mmkernels::FusionProblem& p, int processors, FusionDevice& device) {
  mmkernels::device::FusionBackward<mmkernels::Half, FusionDevice>(p, processors, device).run();
}

}  // namespace emulator
