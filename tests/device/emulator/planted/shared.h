// Order in shared memory.
#pragma once

#include <ptx/convert.h>
#include <ptx/matrix.h>
#include <ptx/sync.h>

#include "call.h"

namespace mmkernels {
namespace device {
namespace planted {

MMK_DEVICE void barrier(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f * thread);
  if (!call.broken) sync_block();
  store(call.out + thread, load<float>(cell(kThreads - 1 - thread)));
}

MMK_DEVICE void warp_barrier(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f * thread);
  if (!call.broken) sync_warp();
  store(call.out + thread, load<float>(cell(thread ^ 1)));
}

/// A barrier of each warp does not order the warps.
MMK_DEVICE void barrier_of_block(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f * thread);
  if (call.broken) sync_warp();
  if (!call.broken) sync_block();
  store(call.out + thread, load<float>(cell(kThreads - 1 - thread)));
}

/// A shuffle does not order memory.
MMK_DEVICE void shuffle_between(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f * thread);
  float other = shuffle_xor(1.0f, 1);
  if (!call.broken) sync_warp();
  store(call.out + thread, other + load<float>(cell(thread ^ 1)));
}

MMK_DEVICE void matrices_after_store(const Call& call) {
  const int thread = thread_index();
  store(row(thread), Words<4>{});
  if (!call.broken) sync_warp();
  uint32_t word[4];
  load_matrices(word, row(thread));
  store(call.out + thread, 1.0f * word[0]);
}

MMK_DEVICE void store_after_matrices(const Call& call) {
  const int thread = thread_index();
  store(row(thread), Words<4>{});
  sync_warp();
  uint32_t word[4];
  load_matrices(word, row(thread));
  if (!call.broken) sync_warp();
  store(row(thread ^ 7), Words<4>{{word[0], 0, 0, 0}});
}

/// All lanes read all rows, whoever gave the address.
MMK_DEVICE void own_row_after_matrices(const Call& call) {
  const int lane = lane_index();
  if (warp_index() != 0) return;
  store(row(lane), Words<4>{});
  sync_warp();
  uint32_t word[4];
  load_matrices(word, row(lane));
  if (!call.broken) sync_warp();
  if (lane == 7) store(row(lane), Words<4>{{word[0], 0, 0, 0}});
}

MMK_DEVICE void two_writers(const Call& call) {
  if (lane_index() == 0 && (call.broken || warp_index() == 0)) store(cell(0), 1.0f);
}

/// Whoever reads last, all readers must be done.
MMK_DEVICE void readers_then_writer(const Call& call) {
  const int thread = thread_index();
  if (thread == 0) store(cell(0), 1.0f);
  sync_block();
  store(call.out + thread, load<float>(cell(0)));
  if (!call.broken) sync_block();
  if (thread == 77) store(cell(0), 2.0f);
}

/// The same within a warp: its barrier is enough for its own lanes.
MMK_DEVICE void lanes_then_writer(const Call& call) {
  const int lane = lane_index();
  if (warp_index() != 0) return;
  if (lane == 0) store(cell(0), 1.0f);
  sync_warp();
  store(call.out + lane, load<float>(cell(0)));
  if (!call.broken) sync_warp();
  if (lane == 7) store(cell(0), 2.0f);
}

/// The writer may have been the last reader.
MMK_DEVICE void last_reader_writes(const Call& call) {
  const int lane = lane_index();
  if (warp_index() != 0) return;
  if (lane == 0) store(cell(0), 1.0f);
  sync_warp();
  store(call.out + lane, load<float>(cell(0)));
  shuffle_xor(1.0f, 1);
  if (lane == 7) store(call.out + lane, load<float>(cell(0)));
  if (!call.broken) sync_warp();
  if (lane == 7) store(cell(0), 2.0f);
}

/// A warp that has waited for its own lanes has not waited for another warp's.
MMK_DEVICE void warps_then_writer(const Call& call) {
  const int thread = thread_index();
  if (thread == 0) store(cell(0), 1.0f);
  sync_block();
  if (warp_index() == 0 || (call.broken && thread == 40)) store(call.out + thread, load<float>(cell(0)));
  sync_warp();
  if (thread == 7) store(cell(0), 2.0f);
}

/// Half of a word each: neighbours, not the same cell.
MMK_DEVICE void halves(const Call& call) {
  const int thread = thread_index();
  store(shared_memory() + static_cast<uint32_t>(call.broken ? thread / 2 * 2 : thread * 2), narrow<Half>(1.0f));
}

MMK_DEVICE void never_written(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f);
  store(call.out + thread, load<float>(cell(thread + (call.broken ? kThreads : 0))));
}

}  // namespace planted
}  // namespace device
}  // namespace mmkernels
