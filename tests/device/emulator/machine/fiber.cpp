#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStack = 1 << 20;  // its frames have red zones
#else
constexpr size_t kStack = 256 << 10;
#endif
constexpr size_t kGuard = 64 << 10;  // never mapped in: running off the stack stops the process

Fiber* running = nullptr;  // the fiber being switched to
[[maybe_unused]] Fiber* left = nullptr;

}  // namespace

#if defined(__x86_64__)
// Saves what the System V ABI lets a callee keep, and takes up the other stack: 9 ns, where swapcontext, which asks the
// kernel about signals, takes 300.
extern "C" void mmk_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl mmk_emulator_switch
.hidden mmk_emulator_switch
.type mmk_emulator_switch,@function
mmk_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size mmk_emulator_switch,.-mmk_emulator_switch
)");
#endif

Fiber::~Fiber() {
  if (stack_) munmap(stack_ - kGuard, kStack + kGuard);
}

void Fiber::prepare(void (*entry)()) {
  if (!stack_) {
    void* memory =
        mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) throw std::bad_alloc();
    stack_ = static_cast<char*>(memory) + kGuard;
  }
  entry_ = entry;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, kStack);
  fake_stack_ = nullptr;
  bottom_ = stack_;
  size_ = kStack;
#endif
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack_ + kStack);
  *--top = nullptr;  // the return address of `begin`, which keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(&Fiber::begin);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = kStack;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::begin, 0);
#endif
}

void Fiber::begin() {
  arrived();
  running->entry_();
  std::abort();
}

void Fiber::change(Fiber& from, Fiber& to, [[maybe_unused]] bool ends) {
  left = &from;
  running = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake_stack_, to.bottom_, to.size_);
#endif
#if defined(__x86_64__)
  mmk_emulator_switch(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
  arrived();
}

void Fiber::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  // tells, of the fiber that was left, where its stack is: the only way to learn that of the process's own
  __sanitizer_finish_switch_fiber(running->fake_stack_, &left->bottom_, &left->size_);
#endif
}

}  // namespace emulator
