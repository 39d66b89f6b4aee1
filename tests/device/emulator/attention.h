// An AttentionProblem over numpy arrays.
#pragma once

#include <pybind11/stl.h>

#include <type_traits>
#include <vector>

#include "bind.h"
#include "core/attention_problem.h"
#include "cuda/launch/attention_plan.h"
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

template <class T>
struct TypeOf {
  using Type = T;
};

template <class T, class F>
void with_dim(int dim, const F& f) {
  if (dim == 32) return f(TypeOf<T>{}, std::integral_constant<int, 32>{});
  if (dim == 64) return f(TypeOf<T>{}, std::integral_constant<int, 64>{});
  if (dim == 128) return f(TypeOf<T>{}, std::integral_constant<int, 128>{});
  return f(TypeOf<T>{}, std::integral_constant<int, 256>{});
}

/// Calls f with the stored type and the head dim of the kernels that serve a problem.
template <class F>
void with_type_and_dim(const mmkernels::AttentionProblem& p, const F& f) {
  const int dim = mmkernels::device::attention_dim(p);
  if (p.query.dtype == mmkernels::DType::kFloat32) return with_dim<float>(dim, f);
  if (p.query.dtype == mmkernels::DType::kFloat16) return with_dim<mmkernels::Half>(dim, f);
  return with_dim<mmkernels::BFloat16>(dim, f);
}

}  // namespace emulator
