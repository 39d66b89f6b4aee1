// The attention forward kernels, of every stored type and head dim.
#include "attention_forward.h"

#include "cuda/launch/attention_table.h"

namespace emulator {

ForwardTold run_forward(Run& run, const mmkernels::AttentionProblem& p, ForwardKind kind, int processors) {
  namespace device = mmkernels::device;
  ForwardTold told;
  device::with_stored_type(p.query.dtype, [&](auto type) {
    device::with_head_dim(device::attention_dim(p), [&](auto dim) {
      device::with_forward_kernel<typename decltype(type)::Type, decltype(dim)::value>(
          kind, [&](auto kernel) { told = run_forward_kernel<typename decltype(kernel)::Type>(run, p, processors); });
    });
  });
  return told;
}

}  // namespace emulator
