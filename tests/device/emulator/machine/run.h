// What the code that launches kernels needs of the emulator; nothing of Python.
#pragma once

#include <cstring>
#include <functional>
#include <list>
#include <typeinfo>
#include <utility>
#include <vector>

#include "machine.h"

namespace emulator {

/// A launch of an entry point of csrc/cuda/launch, as another device than the machine is told of it.
struct EntryLaunch {
  const char* entry;   // the __global__ template,
  const char* kernel;  // and the mangled name of the type that it is of
  int64_t blocks;
  int threads;
  size_t shared_bytes;
  const void* argument;
  size_t argument_bytes;
};

/// Options of the launches, and what they counted, summed over all of them.
struct Run {
  Options options;
  Stats stats;
  std::function<void(const EntryLaunch&)> device;  // has the launches of entry points in the machine's place, if any

  template <class Body>
  void launch(Grid grid, int threads, size_t shared_bytes, Body body) {
    machine.launch(options, stats, grid, threads, shared_bytes, std::move(body));
    ++options.seed;  // kernels that follow one another do not run in the same order
  }

  /// A launch of `entry<Kernel>` as the plans have it, blocks in one dimension or none; its threads do `body`.
  template <class Kernel, class Call, class Body>
  void launch_entry(const char* entry, int64_t blocks, size_t shared_bytes, const Call& call, Body body) {
    if (blocks == 0) return;
    if (!device) return launch({static_cast<int>(blocks)}, Kernel::kThreads, shared_bytes, std::move(body));
    device({entry, typeid(Kernel).name(), blocks, Kernel::kThreads, shared_bytes, &call, sizeof(Call)});
  }

  /// The same of a kernel that is made of its call and then run.
  template <class Kernel, class Call>
  void launch_kernel(const char* entry, int64_t blocks, const Call& call) {
    launch_entry<Kernel>(entry, blocks, Kernel::kSharedBytes, call, [&call] {
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
