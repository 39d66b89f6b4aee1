// The backward kernels of concat_fusion, of every dtype.
#include "cuda/launch/fusion_backward_plan.h"
#include "fusion.h"

namespace emulator {

template <class T>
void fusion_backward_of(const mmkernels::FusionProblem& p, int processors, FusionDevice& device) {
  mmkernels::device::FusionBackward<T, FusionDevice>(p, processors, device).run();
}

template void fusion_backward_of<float>(const mmkernels::FusionProblem&, int, FusionDevice&);
template void fusion_backward_of<mmkernels::Half>(const mmkernels::FusionProblem&, int, FusionDevice&);
template void fusion_backward_of<mmkernels::BFloat16>(const mmkernels::FusionProblem&, int, FusionDevice&);

}  // namespace emulator
