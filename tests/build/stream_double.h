// What the doubles of the launch layer share: the stream that torch's double gives (stream_double.cpp), and one thread.
#pragma once

#include "../../csrc/cpu/kernels.h"

namespace mmkernels {

inline void* const kStream = reinterpret_cast<void*>(1234);

constexpr int64_t kWorkspace = 1000;  // bytes that every launch asks for

inline Threads one_thread() {
  Threads threads;
  threads.run = [](int64_t count, void* context, void (*work)(void*, int64_t)) {
    for (int64_t i = 0; i < count; ++i) work(context, i);
  };
  return threads;
}

}  // namespace mmkernels
