// The forward kernels of concat_fusion, of every dtype.
#include "cuda/launch/fusion_plan.h"
#include "fusion.h"

namespace emulator {

template <class T>
void fusion_forward_of(const mmkernels::FusionProblem& p, int processors, FusionDevice& device) {
  mmkernels::device::FusionForward<T, FusionDevice>(p, processors, device).run();
}

template void fusion_forward_of<float>(const mmkernels::FusionProblem&, int, FusionDevice&);
template void fusion_forward_of<mmkernels::Half>(const mmkernels::FusionProblem&, int, FusionDevice&);
template void fusion_forward_of<mmkernels::BFloat16>(const mmkernels::FusionProblem&, int, FusionDevice&);

}  // namespace emulator
