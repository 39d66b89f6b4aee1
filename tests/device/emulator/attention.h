// An AttentionProblem over numpy arrays.
#pragma once

#include <pybind11/stl.h>

#include <vector>

#include "bind.h"
#include "core/attention_problem.h"

namespace emulator {

/// Element strides; 0 along an axis of size 1.
int64_t stride_of(const py::array& array, int axis);

class AttentionArrays {
 public:
  mmkernels::AttentionProblem problem;
  std::vector<mmkernels::Segment> segments;

  explicit AttentionArrays(const py::dict& call);

  mmkernels::TensorView view(const char* name, const py::array& array, bool written);
  float* row_vector(const char* name, const py::array& array, int64_t (&stride)[3], bool written);
  void* output(const char* name, const py::array& array) { return arrays_.output(name, array); }

 private:
  void mask(const py::dict& call);
  void bias(const py::dict& call);

  mmkernels::DType dtype_;
  DeviceArrays arrays_;
};

}  // namespace emulator
