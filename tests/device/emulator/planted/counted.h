// Kernels that are right, for what is counted and for what AddressSanitizer sees.
#pragma once

#include <ptx/sync.h>

#include "call.h"

namespace mmkernels {
namespace device {
namespace planted {

/// A whole warp reads cells `stride` bytes apart, of sizeof(T) each.
template <class T>
void strided(const Call&, uint32_t stride) {
  const Shared mine = shared_memory() + lane_index() * stride;
  store(mine, T{});
  load<T>(mine);
}

/// A thread's own array: what AddressSanitizer must see on the stack of a fiber.
MMK_DEVICE void local_array(const Call& call, int index) {
  float own[4] = {0.0f, 1.0f, 2.0f, 3.0f};
  float* volatile begin = own;  // what the compiler cannot follow
  sync_block();
  store(call.out + thread_index(), *(begin + index));
}

}  // namespace planted
}  // namespace device
}  // namespace mmkernels
