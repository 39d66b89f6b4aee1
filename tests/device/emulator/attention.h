// An AttentionProblem over numpy arrays.
#pragma once

#include <pybind11/stl.h>

#include <type_traits>
#include <vector>

#include "bind.h"
#include "core/attention_problem.h"
#include "cuda/launch/attention_plan.h"
#include "cuda/launch/type_of.h"
#include "cuda/scalar.h"

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

/// Calls f with the stored type and the head dim of the kernels that serve a problem.
template <class F>
void with_type_and_dim(const mmkernels::AttentionProblem& p, const F& f) {
  namespace device = mmkernels::device;
  device::with_stored_type(p.query.dtype, [&](auto type) {
    device::with_head_dim(device::attention_dim(p), [&](auto dim) { f(type, dim); });
  });
}

}  // namespace emulator
