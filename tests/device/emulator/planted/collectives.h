// Barriers and collectives that not all come to.
#pragma once

#include <ptx/sync.h>

#include "call.h"

namespace mmkernels {
namespace device {
namespace planted {

MMK_DEVICE void half_a_block(const Call& call) {
  if (!call.broken || thread_index() < 64) sync_block();
}

MMK_DEVICE void different_barriers(const Call& call) {
  if (call.broken && thread_index() < 64) {
    sync_block();
  } else {
    sync_block();
  }
}

MMK_DEVICE void different_collectives(const Call& call) {
  if (call.broken && lane_index() < 16) sync_warp();
  shuffle_xor(1.0f, 1);
  if (call.broken && lane_index() >= 16) sync_warp();
}

MMK_DEVICE void lane_skips(const Call& call) {
  if (!(call.broken && lane_index() == 5)) shuffle_xor(1.0f, 1);
  sync_block();
}

MMK_DEVICE void lane_returns(const Call& call) {
  if (call.broken && lane_index() == 5) return;
  shuffle_xor(1.0f, 1);
}

MMK_DEVICE void waits_without_end(const Call& call) {
  if (thread_index() == 0) store(cell(0), call.broken ? 0u : 1u);
  sync_block();
  while (load<uint32_t>(cell(0)) == 0) {
  }
}

}  // namespace planted
}  // namespace device
}  // namespace mmkernels
