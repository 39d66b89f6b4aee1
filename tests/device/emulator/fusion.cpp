// The concat_fusion kernels on numpy arrays: `fusion_forward(run, call, processors)`, where `call` is a dict of the native
// op's arguments (csrc/ops/fusion.cpp), tensors as arrays of their strides, 16-bit ones as uint16, and "dtypes": the names
// of the dtypes of those that may differ.
#include "fusion.h"

#include <pybind11/stl.h>

#include "attention.h"
#include "fusion_device.h"
#include "module.h"

namespace emulator {

using namespace mmkernels;

DType dtype_named(const std::string& name);

void* FusionArrays::data(const char* name, const py::array& array, bool written) {
  return written ? arrays_.output(name, array) : const_cast<void*>(arrays_.input(name, array));
}

float* FusionArrays::vector(const py::dict& call, const char* name, bool written) {
  if (call[name].is_none()) return nullptr;
  return static_cast<float*>(data(name, py::cast<py::array>(call[name]), written));
}

RowView FusionArrays::view(const char* name, const py::array& array, bool written, bool broadcasts_columns) {
  RowView view;
  view.data = data(name, array, written);
  const int dims = static_cast<int>(array.ndim()), missing = problem.axes + 1 - dims;
  view.column = broadcasts_columns && (dims == 0 || array.shape(dims - 1) == 1) ? 0 : 1;
  for (int axis = 0; axis < problem.axes; ++axis) {
    view.stride[axis] = axis < missing ? 0 : stride_of(array, axis - missing);
  }
  return view;
}

int64_t FusionArrays::own_rows(const py::array& array, int64_t* own) const {
  const int missing = problem.axes + 1 - static_cast<int>(array.ndim());
  int64_t rows = 1;
  for (int axis = problem.axes - 1; axis >= 0; --axis) {
    const int64_t size = axis < missing ? 1 : array.shape(axis - missing);
    own[axis] = size == 1 ? 0 : rows;
    rows *= size;
  }
  return rows;
}

FusionArrays::FusionArrays(const py::dict& call) {
  FusionProblem& p = problem;
  const auto dtypes = py::cast<py::dict>(call["dtypes"]);
  const auto dtype = [&](const char* name) { return dtype_named(py::cast<std::string>(dtypes[name])); };
  const auto shape = py::cast<std::vector<int64_t>>(call["shape"]);
  p.axes = static_cast<int>(shape.size()) - 1;
  p.rows = 1;
  for (int axis = 0; axis < p.axes; ++axis) p.rows *= p.size[axis] = shape[axis];
  const auto weight = py::cast<py::array>(call["weight"]);
  p.dtype = dtype("weight");
  p.out = weight.shape(0);
  p.width = weight.shape(1);
  p.weight = data("weight", weight, false);
  p.weight_stride = stride_of(weight, 0);
  int64_t first = 0;
  const auto inputs = py::cast<std::vector<py::array>>(call["inputs"]);
  for (const py::array& x : inputs) {
    Source s;
    s.x = view("inputs", x, false, false);
    s.x.dtype = p.dtype;
    s.width = x.shape(x.ndim() - 1);
    s.first = first;
    s.own_rows = own_rows(x, s.own);
    s.shared = s.own_rows != p.rows;
    first += s.width;
    sources.push_back(s);
  }
  p.bias = vector(call, "bias", false);
  p.norm_weight = vector(call, "norm_weight", false);
  p.norm_bias = vector(call, "norm_bias", false);
  p.norm = static_cast<NormKind>(py::cast<int>(call["norm_kind"]));
  p.activation = static_cast<Activation>(py::cast<int>(call["activation"]));
  p.eps = py::cast<float>(call["eps"]);
  const bool backward = call.contains("grad_out");
  p.mean = vector(call, "mean", !backward);
  p.rstd = vector(call, "rstd", !backward);
  const auto optional = [&](const char* name, RowView& to, bool written) {
    if (!call.contains(name) || call[name].is_none()) return;
    to = view(name, py::cast<py::array>(call[name]), written, true);
    to.dtype = dtype(name);
  };
  optional("gate", p.gate, false);
  optional("residual", p.residual, false);
  optional("out", p.result, true);
  optional("grad_out", p.grad_out, false);
  if (p.gate.data) p.gate_rows = own_rows(py::cast<py::array>(call["gate"]), p.gate_own);
  if (!call["product"].is_none()) {
    void* product = data("product", py::cast<py::array>(call["product"]), !backward);
    if (backward) {
      p.saved_product = product;
    } else {
      p.product = product;
    }
  }
  p.sources = sources.data();
  p.num_sources = static_cast<int>(sources.size());
  if (!backward) return;
  const auto grads = py::cast<std::vector<py::object>>(call["grad_inputs"]);
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!grads[i].is_none()) sources[i].grad = view("grad_inputs", py::cast<py::array>(grads[i]), true, false);
  }
  if (!call["grad_weight"].is_none())
    p.grad_weight = data("grad_weight", py::cast<py::array>(call["grad_weight"]), true);
  p.grad_bias = vector(call, "grad_bias", true);
  p.grad_norm_weight = vector(call, "grad_norm_weight", true);
  p.grad_norm_bias = vector(call, "grad_norm_bias", true);
  p.grad_gate = vector(call, "grad_gate", true);
}

namespace {

using RunFusion = void (*)(const FusionProblem&, int, FusionDevice&);

/// (blocks, threads) of every launch.
template <RunFusion kRun>
std::vector<std::pair<int64_t, int>> fusion(Run& run, const py::dict& call, int processors) {
  FusionArrays arrays(call);
  FusionDevice fusion_device{run, {}, {}};
  kRun(arrays.problem, processors, fusion_device);
  return fusion_device.told;
}

}  // namespace

void bind_fusion(py::module_& module) {
  module.def("fusion_forward", &fusion<&run_fusion_forward>, py::arg("run"), py::arg("call"),
             py::arg("processors") = 1);
  module.def("fusion_backward", &fusion<&run_fusion_backward>, py::arg("run"), py::arg("call"),
             py::arg("processors") = 1);
}

}  // namespace emulator
