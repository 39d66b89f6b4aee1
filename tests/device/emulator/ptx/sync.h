// The emulator's twin of csrc/cuda/ptx/sync.h.
#pragma once

#include "device.h"

namespace emulator {

/// `all(values)` over what the lanes brought, for every lane.
template <class All>
uint32_t reduce_warp(Op op, uint32_t value, Site site, All all) {
  machine.collective(op, &value, site, [all](void** slot) {
    uint32_t whole = *static_cast<uint32_t*>(slot[0]);
    for (int lane = 1; lane < kWarpSize; ++lane) whole = all(whole, *static_cast<uint32_t*>(slot[lane]));
    for (int lane = 0; lane < kWarpSize; ++lane) *static_cast<uint32_t*>(slot[lane]) = whole;
  });
  return value;
}

/// The value of lane `source`, which need not be the same for all.
template <class T>
T exchange(Op op, T value, int source, Site site) {
  struct Offer {
    T value, taken;
    int source;
  } mine{value, value, source & (kWarpSize - 1)};
  machine.collective(op, &mine, site, [](void** slot) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      Offer& offer = *static_cast<Offer*>(slot[lane]);
      offer.taken = static_cast<Offer*>(slot[offer.source])->value;
    }
  });
  return mine.taken;
}

}  // namespace emulator

MMK_NAMESPACE_BEGIN

MMK_DEVICE void sync_block(emulator::Site site = emulator::here()) { emulator::machine.sync_block(site); }

MMK_DEVICE void sync_warp(emulator::Site site = emulator::here()) { emulator::machine.sync_warp(site); }

MMK_DEVICE uint32_t shuffle_xor(uint32_t value, int mask, emulator::Site site = emulator::here()) {
  return emulator::exchange(emulator::Op::kShuffleXor, value, lane_index() ^ mask, site);
}
MMK_DEVICE float shuffle_xor(float value, int mask, emulator::Site site = emulator::here()) {
  return emulator::exchange(emulator::Op::kShuffleXor, value, lane_index() ^ mask, site);
}

MMK_DEVICE float shuffle(float value, int lane, emulator::Site site = emulator::here()) {
  return emulator::exchange(emulator::Op::kShuffle, value, lane, site);
}

MMK_DEVICE uint32_t warp_or(uint32_t value, emulator::Site site = emulator::here()) {
  return emulator::reduce_warp(emulator::Op::kWarpOr, value, site, [](uint32_t a, uint32_t b) { return a | b; });
}
MMK_DEVICE uint32_t warp_and(uint32_t value, emulator::Site site = emulator::here()) {
  return emulator::reduce_warp(emulator::Op::kWarpAnd, value, site, [](uint32_t a, uint32_t b) { return a & b; });
}

MMK_DEVICE bool warp_any(bool own, emulator::Site site = emulator::here()) {
  return warp_or(own ? 1u : 0u, site) != 0;
}

MMK_NAMESPACE_END
