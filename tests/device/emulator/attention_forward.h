// The attention forward kernels on a call in numpy arrays.
#pragma once

#include <string>

#include "attention.h"
#include "cuda/launch/attention_table.h"

namespace emulator {

template <class Kernel>
void run_forward(Run& run, AttentionArrays& arrays, int processors, py::dict& told) {
  mmkernels::device::ForwardPlan plan = mmkernels::device::plan_forward<Kernel>(arrays.problem, processors);
  py::array_t<float> scratch(plan.scratch_bytes / 4);
  if (plan.scratch_bytes > 0) plan.call.scratch = static_cast<float*>(arrays.output("scratch", scratch));
  told["blocks"] = plan.blocks;
  told["splits"] = plan.call.splits;
  told["pack"] = plan.call.pack;
  if (plan.blocks == 0) return;
  const mmkernels::AttentionCall& call = plan.call;
  run.launch<Kernel>("attention_forward", call, plan.blocks, Kernel::kSharedBytes, [&] { Kernel(call).run(); });
  if (plan.merge_blocks == 0) return;
  run.launch<Kernel>("attention_merge", call, plan.merge_blocks, 0, [&] { Kernel(call).run_merge(); });
}

/// `kind`: None, or a kernel other than the plan's. `serve(problem, f)` calls f with the type and head dim that serve it.
template <class Serve>
py::dict forward(Run& run, const py::dict& call, const py::object& kind, int processors, const Serve& serve) {
  static const char* const names[] = {"plain", "few", "general", "general_few"};
  AttentionArrays arrays(call);
  mmkernels::AttentionProblem& p = arrays.problem;
  p.out = arrays.view("out", py::cast<py::array>(call["out"]), true);
  if (!call["lse"].is_none()) p.lse = arrays.row_vector("lse", py::cast<py::array>(call["lse"]), p.lse_stride, true);
  mmkernels::device::ForwardKind chosen = mmkernels::device::forward_kind(p);
  for (int i = 0; i < 4; ++i) {
    if (!kind.is_none() && py::cast<std::string>(kind) == names[i])
      chosen = static_cast<mmkernels::device::ForwardKind>(i);
  }
  py::dict told;
  told["kind"] = names[static_cast<int>(chosen)];
  serve(p, [&](auto type, auto dim) {
    using T = typename decltype(type)::Type;
    mmkernels::device::with_forward_kernel<T, decltype(dim)::value>(
        chosen, [&](auto kernel) { run_forward<typename decltype(kernel)::Type>(run, arrays, processors, told); });
  });
  return told;
}

/// Adds `attention_forward(run, call, kind, processors)` to a module.
template <class Serve>
void define_forward(py::module_& module, const Serve& serve) {
  module.def(
      "attention_forward",
      [serve](Run& run, const py::dict& call, const py::object& kind, int processors) {
        return forward(run, call, kind, processors, serve);
      },
      py::arg("run"), py::arg("call"), py::arg("kind") = py::none(), py::arg("processors") = 1);
}

}  // namespace emulator
