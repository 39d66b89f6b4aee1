// A small generator (xorshift): the same everywhere for the same seed.
#pragma once

#include <cstdint>

namespace emulator {

class Random {
 public:
  void seed(uint64_t seed) {
    // neighbouring seeds must not begin alike
    state_ = (seed + 1) * 0x9E3779B97F4A7C15ull;
    for (int i = 0; i < 8; ++i) next();
  }
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>((next() >> 32) * bound >> 32); }

 private:
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

  uint64_t state_ = 88172645463325252ull;
};

}  // namespace emulator
