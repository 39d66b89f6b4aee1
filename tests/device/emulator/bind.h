// What a file that binds kernels to Python needs: a Run, and numpy arrays as device memory.
//
//   void bind_attention(py::module_& module) {
//     module.def("attention_forward", [](Run& run, py::array q, py::array out) {
//       DeviceArrays arrays;
//       AttentionCall call;
//       call.query = arrays.input("q", q);
//       call.out = arrays.output("out", out);
//       run.launch<Kernel>("attention_forward", call, blocks, shared_bytes, [&] { Kernel(call).run(); });
//     });
//   }
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include "machine/machine.h"

namespace emulator {

namespace py = pybind11;

/// A launch of an entry point of csrc/cuda/launch, as another device than the machine is told of it.
struct EntryLaunch {
  const char* entry;   // the __global__ template,
  const char* kernel;  // and the mangled name of the type that it is of
  int64_t blocks;
  int threads;
  size_t shared_bytes;
  const void* argument;
  size_t argument_bytes;
};
void hand_over(const py::object& device, const EntryLaunch& launch);

/// Options of the launches, and what they counted, summed over all of them.
struct Run {
  Options options;
  Stats stats;
  py::object device = py::none();  // called with the launches of entry points, which the machine then does not run

  /// A launch of `entry<Kernel>`, whose threads do `body`.
  template <class Kernel, class Call, class Body>
  void launch(const char* entry, const Call& call, int64_t blocks, size_t shared_bytes, Body body) {
    if (device.is_none()) return launch({static_cast<int>(blocks)}, Kernel::kThreads, shared_bytes, std::move(body));
    hand_over(device, {entry, typeid(Kernel).name(), blocks, Kernel::kThreads, shared_bytes, &call, sizeof(Call)});
  }

  template <class Body>
  void launch(Grid grid, int threads, size_t shared_bytes, Body body) {
    machine.launch(options, stats, grid, threads, shared_bytes, std::move(body));
    ++options.seed;  // kernels that follow one another do not run in the same order
  }
};

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
