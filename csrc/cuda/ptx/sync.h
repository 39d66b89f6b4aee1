// Barriers and what the lanes of a warp tell one another.
#pragma once

#include "device.h"

MMK_NAMESPACE_BEGIN

/// Every thread of the block; shared memory written before is seen after.
MMK_DEVICE void sync_block() { asm volatile("bar.sync 0;" ::: "memory"); }

/// The same for the lanes of a warp.
MMK_DEVICE void sync_warp() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

/// The value of the lane whose number differs from this one's in the bits of `mask`.
MMK_DEVICE uint32_t shuffle_xor(uint32_t value, int mask) {
  uint32_t other;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(other) : "r"(value), "r"(mask));
  return other;
}
MMK_DEVICE float shuffle_xor(float value, int mask) {
  float other;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(other) : "f"(value), "r"(mask));
  return other;
}

/// The value of lane `lane`.
MMK_DEVICE float shuffle(float value, int lane) {
  float other;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(other) : "f"(value), "r"(lane));
  return other;
}

/// Whether it is so in any lane of the warp.
MMK_DEVICE bool warp_any(bool own) {
  uint32_t any;
  asm volatile(
      "{\n .reg .pred own, any;\n setp.ne.u32 own, %1, 0;\n vote.sync.any.pred any, own, 0xffffffff;\n"
      " selp.u32 %0, 1, 0, any;\n}"
      : "=r"(any)
      : "r"(static_cast<uint32_t>(own)));
  return any != 0;
}

/// Bitwise or, and bitwise and, over the lanes of a warp.
MMK_DEVICE uint32_t warp_or(uint32_t value) {
  uint32_t all;
  asm volatile("redux.sync.or.b32 %0, %1, 0xffffffff;" : "=r"(all) : "r"(value));
  return all;
}
MMK_DEVICE uint32_t warp_and(uint32_t value) {
  uint32_t all;
  asm volatile("redux.sync.and.b32 %0, %1, 0xffffffff;" : "=r"(all) : "r"(value));
  return all;
}

MMK_NAMESPACE_END
