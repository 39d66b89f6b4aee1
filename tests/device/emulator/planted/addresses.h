// Bounds, alignment, and what is no address.
#pragma once

#include <ptx/matrix.h>
#include <ptx/sync.h>

#include "call.h"

namespace mmkernels {
namespace device {
namespace planted {

MMK_DEVICE void shared_end(const Call& call) {
  store(cell(static_cast<int>(kShared / 4) - kThreads + thread_index() + call.broken), 1.0f);
}
MMK_DEVICE void shared_begin(const Call& call) { store(cell(thread_index() - call.broken), 1.0f); }
MMK_DEVICE void shared_row(const Call& call) {
  store(row(thread_index()), Words<4>{});
  sync_warp();
  uint32_t word[4];
  load_matrices(word, row(thread_index()) + (call.broken ? 8 : 0));
}
MMK_DEVICE void shared_alignment(const Call& call) { store(row(thread_index()) + (call.broken ? 4 : 8), Words<2>{}); }
MMK_DEVICE void global_load_end(const Call& call) {
  load(call.in + (kNumbers - kThreads + thread_index() + call.broken));
}
MMK_DEVICE void global_store_begin(const Call& call) { store(call.out + (thread_index() - call.broken), 1.0f); }
MMK_DEVICE void global_other_array(const Call& call) {
  const auto number = [](auto place) { return reinterpret_cast<uint64_t>(place.pointer) << 16 >> 16; };
  const int64_t between = static_cast<int64_t>(number(call.out) - number(call.in)) / 4;
  load(call.in + (call.broken ? between : 0));
}
MMK_DEVICE void global_alignment(const Call& call) { load16(call.in + (4 * thread_index() + call.broken)); }
MMK_DEVICE void copy_alignment(const Call& call) {
  copy16_async(row(thread_index()), call.in + (4 * thread_index() + call.broken), true);
  commit_copies();
  wait_copies<0>();
}
MMK_DEVICE void null(const Call& call) { load(call.broken ? Global<const float>{nullptr} : call.in); }
MMK_DEVICE void store_to_input(const Call& call) {
  store(call.broken ? Global<float>{const_cast<float*>(call.in.pointer)} + thread_index() : call.out + thread_index(),
        1.0f);
}
/// Past the accessors.
MMK_DEVICE void dereference(const Call& call) {
  if (call.broken) *const_cast<volatile float*>(call.out.pointer) = 1.0f;
}

}  // namespace planted
}  // namespace device
}  // namespace mmkernels
