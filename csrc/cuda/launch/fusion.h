// What the host side of the CUDA library may ask of the concat_fusion kernels. No CUDA types: the callers are compiled
// without the toolkit's headers.
#pragma once

#include "../../core/fusion_problem.h"

namespace mmkernels {

/// Bytes of device memory that a call needs beside its tensors, 256-byte aligned; may be 0. Reads sizes only, no memory.
int64_t fusion_forward_workspace(const FusionProblem& problem, int processors);
int64_t fusion_backward_workspace(const FusionProblem& problem, int processors);

/// Launches on `stream` (a cudaStream_t) of the current device, of so many multiprocessors, and does not wait. Pointers of
/// the problem are device pointers, but `sources`, which is read here. The answer is nullptr, or the runtime's text of
/// what went wrong. A backward has rows and outputs: without them its gradients are 0, and the caller's to write.
const char* launch_fusion_forward(const FusionProblem& problem, int processors, void* workspace, void* stream);
const char* launch_fusion_backward(const FusionProblem& problem, int processors, void* workspace, void* stream);

}  // namespace mmkernels
