// What a file that binds kernels to Python needs: a Run, and numpy arrays as device memory.
//
//   void bind_attention(py::module_& module) {
//     module.def("attention_forward", [](Run& run, py::array q, py::array out) {
//       DeviceArrays arrays;
//       AttentionCall call;
//       call.query = arrays.input("q", q);
//       call.out = arrays.output("out", out);
//       run.launch_kernel<Kernel>("attention_forward", blocks, call);
//     });
//   }
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "machine/run.h"

namespace emulator {

namespace py = pybind11;

/// The device's memory during the calls of one function. Addresses given out are good for this object's lifetime.
/// Arrays may have any strides that are not negative; what lies between their elements counts as theirs.
class DeviceArrays {
 public:
  DeviceArrays() : count_(machine.arrays.count()) {}
  ~DeviceArrays() { machine.arrays.forget(count_); }
  DeviceArrays(const DeviceArrays&) = delete;
  DeviceArrays& operator=(const DeviceArrays&) = delete;

  const void* input(const char* name, const py::array& array) {
    return add(name, const_cast<void*>(array.data()), array, false);
  }
  void* output(const char* name, py::array array) { return add(name, array.mutable_data(), array, true); }

 private:
  void* add(const char* name, void* data, const py::array& array, bool written) {
    if (array.size() == 0) return nullptr;
    py::ssize_t bytes = array.itemsize();
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      if (array.strides(axis) < 0) throw py::value_error(std::string(name) + " has a negative stride");
      bytes += (array.shape(axis) - 1) * array.strides(axis);
    }
    kept_.push_back(array);
    return machine.arrays.add(name, data, static_cast<size_t>(bytes), written);
  }

  size_t count_;
  std::vector<py::array> kept_;
};

}  // namespace emulator
