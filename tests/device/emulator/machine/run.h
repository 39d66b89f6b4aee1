// What the code that launches kernels needs of the emulator; nothing of Python.
#pragma once

#include <cstring>
#include <list>
#include <utility>
#include <vector>

#include "machine.h"

namespace emulator {

/// Options of the launches, and what they counted, summed over all of them.
struct Run {
  Options options;
  Stats stats;

  template <class Body>
  void launch(Grid grid, int threads, size_t shared_bytes, Body body) {
    machine.launch(options, stats, grid, threads, shared_bytes, std::move(body));
    ++options.seed;  // kernels that follow one another do not run in the same order
  }

  /// A launch as the plans have it: blocks in one dimension, or none, of a kernel that is made of its call.
  template <class Kernel, class Call>
  void launch_kernel(int64_t blocks, const Call& call) {
    if (blocks == 0) return;
    launch({static_cast<int>(blocks)}, Kernel::kThreads, Kernel::kSharedBytes, [&call] {
      Kernel kernel(call);
      kernel.run();
    });
  }
};

/// Device memory that a call takes for itself: NaN, each piece checked on its own, given back with this object.
class Scratch {
 public:
  Scratch() : count_(machine.arrays.count()) {}
  ~Scratch() { machine.arrays.forget(count_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* take_bytes(const char* name, int64_t bytes) {
    if (bytes == 0) return nullptr;
    pieces_.emplace_back(static_cast<size_t>(bytes), '\xff');
    return machine.arrays.add(name, pieces_.back().data(), pieces_.back().size(), true);
  }
  template <class X>
  X* take(int64_t count, const char* name = "scratch") {
    return static_cast<X*>(take_bytes(name, count * static_cast<int64_t>(sizeof(X))));
  }

 private:
  size_t count_;
  std::list<std::vector<char>> pieces_;
};

}  // namespace emulator
