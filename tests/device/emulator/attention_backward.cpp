// The attention backward kernels on numpy arrays: `attention_backward(run, call)`, where `call` is that of the forward
// (attention.cpp) with grad_out, grad_lse, out, lse and the gradients, an empty list or None for those not wanted.
#include "attention_backward.h"

#include "attention.h"
#include "module.h"

namespace emulator {
namespace {

void backward(Run& run, const py::dict& call) {
  AttentionArrays arrays(call);
  mmkernels::AttentionProblem& p = arrays.problem;
  const auto input = [&](const char* name) { return py::cast<py::array>(call[name]); };
  const auto list = [&](const char* name) { return py::cast<std::vector<py::array>>(call[name]); };
  p.out = arrays.view("out", input("out"), false);
  p.grad_out = arrays.view("grad_out", input("grad_out"), false);
  p.lse = arrays.row_vector("lse", input("lse"), p.lse_stride, false);
  if (!call["grad_lse"].is_none())
    p.grad_lse = arrays.row_vector("grad_lse", input("grad_lse"), p.grad_lse_stride, false);
  if (!call["grad_query"].is_none()) p.grad_query = arrays.view("grad_query", input("grad_query"), true);
  const std::vector<py::array> keys = list("grad_keys"), values = list("grad_values"), bias = list("grad_bias");
  for (size_t s = 0; s < keys.size(); ++s) arrays.segments[s].grad_key = arrays.view("grad_key", keys[s], true);
  for (size_t s = 0; s < values.size(); ++s) arrays.segments[s].grad_value = arrays.view("grad_value", values[s], true);
  for (size_t i = 0; i < bias.size(); ++i) p.bias.grad[i] = arrays.output("grad_bias", bias[i]);
  run_backward(run, p);
}

}  // namespace

void bind_attention_backward(py::module_& module) {
  module.def("attention_backward", &backward, py::arg("run"), py::arg("call"));
}

}  // namespace emulator
