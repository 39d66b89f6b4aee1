// Asynchronous copies: waited for, ordered, and left alone until then.
#pragma once

#include <ptx/sync.h>

#include "call.h"

namespace mmkernels {
namespace device {
namespace planted {

MMK_DEVICE void copy_wait(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  if (!call.broken) wait_copies<0>();
  store(call.out + thread, load<float>(row(thread)));
  if (call.broken) wait_copies<0>();
}

MMK_DEVICE void copy_barrier(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  wait_copies<0>();
  if (!call.broken) sync_block();
  store(call.out + thread, load<float>(row(thread ^ 33)));
}

/// The barrier must come after the wait.
MMK_DEVICE void copy_barrier_first(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  if (call.broken) sync_block();
  wait_copies<0>();
  if (!call.broken) sync_block();
  store(call.out + thread, load<float>(row(thread ^ 33)));
}

MMK_DEVICE void copy_groups(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  copy(row(kThreads + thread), call.in + 4 * thread);
  commit_copies();
  wait_copies<1>();
  store(call.out + thread, load<float>(row((call.broken ? kThreads : 0) + thread)));
  wait_copies<0>();
}

MMK_DEVICE void copy_commit(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  if (!call.broken) commit_copies();
  wait_copies<0>();
  store(call.out + thread, load<float>(row(thread)));
  commit_copies();
  wait_copies<0>();
}

MMK_DEVICE void copy_overwritten(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  if (call.broken) store(row(thread), 1.0f);
  wait_copies<0>();
  store(row(thread), 1.0f);
}

MMK_DEVICE void copy_over_copy(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  if (!call.broken) wait_copies<0>();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  wait_copies<0>();
}

/// A stage of a ring that is filled again must have been read by all.
MMK_DEVICE void copy_over_reads(const Call& call) {
  const int thread = thread_index();
  for (int step = 0; step < 2; ++step) {
    copy(row(thread), call.in + 4 * thread);
    commit_copies();
    wait_copies<0>();
    sync_block();
    store(call.out + (step * kThreads + thread), load<float>(row(thread ^ 33)));
    if (!call.broken) sync_block();
  }
}

MMK_DEVICE void copy_source(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), Global<const float>{call.out.pointer} + 4 * thread);
  commit_copies();
  if (call.broken) store(call.out + 4 * thread, 2.0f);
  wait_copies<0>();
}

MMK_DEVICE void copy_outstanding(const Call& call) {
  copy(row(thread_index()), call.in + 4 * thread_index());
  commit_copies();
  if (!call.broken) wait_copies<0>();
}

}  // namespace planted
}  // namespace device
}  // namespace mmkernels
