// What the problem structs share. A problem is one call in plain pointers, strides (in elements) and lengths: no torch
// and no CUDA types.
#pragma once

#include <cstdint>

namespace mmkernels {

enum class DType : int32_t { kFloat32, kBFloat16, kFloat16 };

/// Runs `work(context, index)` for every index in [0, count), on several threads; returns when all are done.
struct Threads {
  int count = 1;
  void (*run)(int64_t count, void* context, void (*work)(void*, int64_t)) = nullptr;
};

}  // namespace mmkernels
