// Work items over threads. Items are claimed one by one; none may depend on the thread that runs it.
#pragma once

#include "../core/namespace.h"
#include "../core/problem.h"

MMK_NAMESPACE_BEGIN

/// Runs `body(worker_scope)` once per thread; inside, `next()` hands out the indices [0, count).
class Claim {
 public:
  explicit Claim(int64_t count) : count_(count) {}
  /// The next index, or -1 when none is left.
  int64_t next() {
    const int64_t index = __atomic_fetch_add(&taken_, 1, __ATOMIC_RELAXED);
    return index < count_ ? index : -1;
  }

 private:
  int64_t taken_ = 0;
  const int64_t count_;
};

/// Calls `worker(claim)` on every thread that can find work: on this one alone when `operations` are few.
template <class Worker>
inline void parallel(const Threads& threads, int64_t count, double operations, const Worker& worker) {
  constexpr double kWorthAThread = 5e5;  // floating-point operations that take about as long as waking a thread
  Claim claim(count);
  int64_t workers = smaller<int64_t>(threads.count, count);
  if (operations < 2 * kWorthAThread) workers = smaller<int64_t>(workers, 1);
  if (workers <= 1) {
    worker(claim);
    return;
  }
  struct Context {
    Claim* claim;
    const Worker* worker;
  } context{&claim, &worker};
  threads.run(workers, &context, [](void* c, int64_t) {
    const Context* shared = static_cast<Context*>(c);
    (*shared->worker)(*shared->claim);
  });
}

MMK_NAMESPACE_END
