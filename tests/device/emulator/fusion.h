// A FusionProblem over numpy arrays.
#pragma once

#include <vector>

#include "bind.h"
#include "core/fusion_problem.h"

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

}  // namespace emulator
