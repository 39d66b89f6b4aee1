// The table of kernels of one instruction set, and the choice between them (dispatch.cpp).
#pragma once

#include "../core/attention_problem.h"
#include "../core/contrastive_problem.h"
#include "../core/fusion_problem.h"

namespace mmkernels {

/// Kernels of one op. A kernel runs on several threads and returns when all are done.
template <class Problem>
struct Directions {
  void (*forward)(const Problem&, const Threads&);
  void (*backward)(const Problem&, const Threads&);
};

/// Measurements to compare with (peak.cpp).
struct PeakKernels {
  int64_t (*fma)(int64_t steps, const Threads&);                      // operations
  int64_t (*bf16)(int64_t steps, const Threads&);                     // operations on bf16 operands
  int64_t (*read)(const float* data, int64_t count, const Threads&);  // bytes
};

struct Kernels {
  const char* isa;
  Directions<AttentionProblem> attention;
  Directions<FusionProblem> fusion;
  Directions<ContrastiveProblem> contrastive;
  PeakKernels peak;
};

/// The kernels that run: the best the processor has, or the ones MMKERNELS_CPU_ISA or use_isa() names.
const Kernels& kernels();

/// Names that this processor can run, best first, separated by spaces.
const char* available_isas();

/// False when the processor or the build lacks `name`. An empty name goes back to the default.
bool use_isa(const char* name);

}  // namespace mmkernels
