// Threads of control that hand over to one another: a stack and a stack pointer each.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The next switch to this fiber calls `entry`, which must never return. What ran here before is forgotten.
  void prepare(void (*entry)());

  /// Goes on with `to`; returns when something goes on with `from`. `ends`: nothing will.
  static void change(Fiber& from, Fiber& to, bool ends = false);

 private:
  static void begin();
  static void arrived();

  char* stack_ = nullptr;  // nullptr: the stack of the process
  void (*entry_)() = nullptr;
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  size_t size_ = 0;
#endif
};

}  // namespace emulator
