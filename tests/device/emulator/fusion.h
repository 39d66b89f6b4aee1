// A FusionProblem over numpy arrays, and the emulator as the device of its launches.
#pragma once

#include <list>
#include <string>
#include <vector>

#include "bind.h"
#include "core/fusion_problem.h"
#include "cuda/scalar.h"

namespace emulator {

/// As csrc/ops/lower_fusion.h has it, but axes are not merged: each of them is tested.
class FusionArrays {
 public:
  mmkernels::FusionProblem problem;
  std::vector<mmkernels::Source> sources;

  explicit FusionArrays(const py::dict& call);

 private:
  py::array array(const py::dict& call, const char* name, size_t i) const;
  mmkernels::RowView view(const char* name, const py::array& array, bool written, bool broadcasts_columns);
  float* vector(const py::dict& call, const char* name, bool written);
  int64_t own_rows(const py::array& array, int64_t* own) const;
  void* data(const char* name, const py::array& array, bool written);

  DeviceArrays arrays_;
};

/// Launches one after the other, and scratch whose every array is checked on its own.
struct FusionDevice {
  Run& run;
  py::list& told;
  DeviceArrays arrays;
  std::list<py::array> scratch;

  template <class X>
  X* take(int64_t count) {
    scratch.emplace_back(py::dtype::of<uint8_t>(),
                         std::vector<py::ssize_t>{static_cast<py::ssize_t>(count * sizeof(X))});
    py::array& array = scratch.back();
    memset(array.mutable_data(), 0xff, static_cast<size_t>(array.nbytes()));  // NaNs
    return static_cast<X*>(arrays.output("scratch", array));
  }

  template <class Kernel>
  void launch(const typename Kernel::Call& call, int64_t blocks) {
    told.append(py::make_tuple(blocks, static_cast<int>(Kernel::kThreads)));
    run.launch<Kernel>("fusion_entry", call, blocks, Kernel::kSharedBytes, [&] { Kernel(call).run(); });
  }
};

template <class T>
void fusion_forward_of(const mmkernels::FusionProblem& p, int processors, FusionDevice& device);
template <class T>
void fusion_backward_of(const mmkernels::FusionProblem& p, int processors, FusionDevice& device);

}  // namespace emulator
