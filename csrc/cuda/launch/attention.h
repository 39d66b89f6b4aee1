// What the host side of the CUDA library may ask of the attention kernels. No CUDA types: the callers are compiled without
// the toolkit's headers.
#pragma once

#include "../../core/attention_problem.h"

namespace mmkernels {

constexpr int kMaxCudaHeadDim = 256;

/// Bytes of device memory that a launch needs beside its tensors, 256-byte aligned; often 0. Of a problem on a device
/// with `processors` multiprocessors; reads sizes only, no memory.
int64_t attention_forward_workspace(const AttentionProblem& problem, int processors);
int64_t attention_backward_workspace(const AttentionProblem& problem, int processors);

/// Launches on `stream` (a cudaStream_t) of the current device and does not wait. Pointers of the problem are device
/// pointers, but `segments`, which is read here. The answer is nullptr, or the runtime's text of what went wrong.
const char* launch_attention_forward(const AttentionProblem& problem, int processors, void* workspace, void* stream);
const char* launch_attention_backward(const AttentionProblem& problem, int processors, void* workspace, void* stream);

}  // namespace mmkernels
