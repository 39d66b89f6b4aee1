// The attention forward on numpy arrays: `attention_forward(run, call, kind, processors)`, where `call` is a dict
// (attention_arrays.cpp) and `kind` None, or a kernel other than the plan's.
#include "attention.h"

#include <string>

#include "attention_forward.h"
#include "module.h"

namespace emulator {
namespace {

py::dict forward(Run& run, const py::dict& call, const py::object& kind, int processors) {
  static const char* const names[] = {"plain", "few", "general", "general_few"};
  AttentionArrays arrays(call);
  mmkernels::AttentionProblem& p = arrays.problem;
  p.out = arrays.view("out", py::cast<py::array>(call["out"]), true);
  if (!call["lse"].is_none()) p.lse = arrays.row_vector("lse", py::cast<py::array>(call["lse"]), p.lse_stride, true);
  ForwardKind chosen = mmkernels::device::forward_kind(p);
  for (int i = 0; i < 4; ++i) {
    if (!kind.is_none() && py::cast<std::string>(kind) == names[i]) chosen = static_cast<ForwardKind>(i);
  }
  const ForwardTold launched = run_forward(run, p, chosen, processors);
  py::dict told;
  told["kind"] = names[static_cast<int>(chosen)];
  told["blocks"] = launched.blocks;
  told["splits"] = launched.splits;
  told["pack"] = launched.pack;
  return told;
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("attention_forward", &forward, py::arg("run"), py::arg("call"), py::arg("kind") = py::none(),
             py::arg("processors") = 1);
}

}  // namespace emulator
