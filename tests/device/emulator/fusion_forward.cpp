// The forward kernels of concat_fusion, of every dtype.
#include "fusion_device.h"

#include "cuda/launch/fusion_plan.h"
#include "cuda/launch/type_of.h"

namespace emulator {

void run_fusion_forward(const mmkernels::FusionProblem& p, int processors, FusionDevice& device) {
  mmkernels::device::with_stored_type(p.dtype, [&](auto type) {
    mmkernels::device::FusionForward<typename decltype(type)::Type, FusionDevice>(p, processors, device).run();
  });
}

}  // namespace emulator
