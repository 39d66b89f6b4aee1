// torch's threads, as csrc/cpu takes them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../core/problem.h"

namespace mmkernels {

inline Threads torch_threads() {
  Threads threads;
  threads.count = static_cast<int>(torch::stable::get_num_threads());
  threads.run = [](int64_t count, void* context, void (*work)(void*, int64_t)) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) work(context, i);
    });
  };
  return threads;
}

}  // namespace mmkernels
