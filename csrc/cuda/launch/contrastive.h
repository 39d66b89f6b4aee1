// What the host side of the CUDA library may ask of the contrastive_loss kernels. No CUDA types: the callers are compiled
// without the toolkit's headers.
#pragma once

#include "../../core/contrastive_problem.h"

namespace mmkernels {

/// A problem whose scale and bias (nullptr: none) are float32 numbers in device memory; those in `problem` are not read.
struct ContrastiveInput {
  ContrastiveProblem problem;
  const float *scale = nullptr, *bias = nullptr;
};

/// Bytes of device memory that a launch needs beside its tensors, 256-byte aligned. Reads sizes and which pointers are
/// nullptr, no memory.
int64_t contrastive_statistics_workspace(const ContrastiveInput& input);
int64_t contrastive_gradients_workspace(const ContrastiveInput& input);

/// Launches on `stream` (a cudaStream_t) of the current device and does not wait. Pointers of the problem are device
/// pointers. Rows and columns are not 0. The answer is nullptr, or the runtime's text of what went wrong.
///
/// Statistics: the softmax kind's forward. Gradients: its backward, and losses and gradients of the sigmoid kind.
const char* launch_contrastive_statistics(const ContrastiveInput& input, void* workspace, void* stream);
const char* launch_contrastive_gradients(const ContrastiveInput& input, void* workspace, void* stream);

}  // namespace mmkernels
