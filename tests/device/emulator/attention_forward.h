// Runs the attention forward kernels.
#pragma once

#include "cuda/launch/attention_plan.h"
#include "machine/run.h"

namespace emulator {

using mmkernels::device::ForwardKind;

/// How a call was launched.
struct ForwardTold {
  int64_t blocks = 0;
  int splits = 1, pack = 1;
};

/// The kernel that serves the problem, of this kind.
ForwardTold run_forward(Run& run, const mmkernels::AttentionProblem& p, ForwardKind kind, int processors);

template <class Kernel>
ForwardTold run_forward_kernel(Run& run, const mmkernels::AttentionProblem& p, int processors) {
  mmkernels::device::ForwardPlan plan = mmkernels::device::plan_forward<Kernel>(p, processors);
  Scratch scratch;
  plan.call.scratch = static_cast<float*>(scratch.take_bytes("scratch", plan.scratch_bytes));
  const mmkernels::AttentionCall& call = plan.call;
  run.launch_kernel<Kernel>("attention_forward", plan.blocks, call);
  run.launch_entry<Kernel>("attention_merge", plan.blocks > 0 ? plan.merge_blocks : 0, 0, call,
                           [&call] { Kernel(call).run_merge(); });
  return {plan.blocks, call.splits, call.pack};
}

}  // namespace emulator
