// Blocks of a launch that meet in global memory.
#pragma once

#include <ptx/sync.h>

#include "call.h"

namespace mmkernels {
namespace device {
namespace planted {

MMK_DEVICE void blocks_write(const Call& call) {
  store(call.out + thread_index(), call.broken ? 1.0f * block_index_x() : 1.0f);
}

MMK_DEVICE void block_reads_other(const Call& call) {
  const int thread = thread_index();
  const int other = block_index_x() ^ (call.broken ? 1 : 0);
  store(call.out + (block_index_x() * kThreads + thread), 1.0f);
  sync_warp();
  copy(row(thread), Global<const float>{call.out.pointer} + (other * kThreads + thread / 4 * 4));
  commit_copies();
  wait_copies<0>();
}

/// The same, where the one only reads and the other only writes.
MMK_DEVICE void block_writes_other(const Call& call) {
  const int thread = thread_index();
  if (block_index_x() == 0) {
    copy(row(thread), Global<const float>{call.out.pointer} + 4 * thread);
    commit_copies();
    wait_copies<0>();
  } else if (call.broken) {
    store(call.out + 4 * thread, 1.0f);
  }
}

/// Loads go through the cache that knows nothing of this launch's stores, even of its own thread's.
MMK_DEVICE void load_of_stored(const Call& call) {
  const int place = block_index_x() * kThreads + thread_index();
  store(call.out + place, 1.0f);
  load(call.broken ? Global<const float>{call.out.pointer} + place : call.in + place);
}

MMK_DEVICE void store_of_loaded(const Call& call) {
  const int place = block_index_x() * kThreads + thread_index();
  store(call.out + place, load(call.broken ? Global<const float>{call.out.pointer} + place : call.in + place) + 1.0f);
}

}  // namespace planted
}  // namespace device
}  // namespace mmkernels
