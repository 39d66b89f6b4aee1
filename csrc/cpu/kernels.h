// The table of kernels of one instruction set, and the choice between them (dispatch.cpp).
#pragma once

#include "../core/problem.h"

namespace mmkernels {

struct AttentionKernels {
  const char* name;
  void (*forward)(const AttentionProblem&, const Threads&);
  void (*backward)(const AttentionProblem&, const Threads&);
};

/// Measurements to compare with (peak.cpp), on the same instruction set.
struct PeakKernels {
  int64_t (*fma)(int64_t steps, const Threads&);                      // operations
  int64_t (*bf16)(int64_t steps, const Threads&);                     // operations on bf16 operands
  int64_t (*read)(const float* data, int64_t count, const Threads&);  // bytes
};

/// The kernels that run: the best the processor has, or the one MMKERNELS_CPU_ISA or use_isa() names.
const AttentionKernels& attention_kernels();
const PeakKernels& peak_kernels();

/// Names that this processor can run, best first, separated by spaces.
const char* available_isas();

/// False when the processor or the build lacks `name`. An empty name goes back to the default.
bool use_isa(const char* name);

}  // namespace mmkernels
