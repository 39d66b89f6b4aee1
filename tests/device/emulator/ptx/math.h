// The emulator's twin of csrc/cuda/ptx/math.h. exp2_approx and log2_approx are nearer to the truth than the special
// function unit, whose error this does not model.
#pragma once

#include <cmath>

#include "convert.h"
#include "device.h"

MMK_NAMESPACE_BEGIN

MMK_DEVICE float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : emulator::canonical(y);
}

MMK_DEVICE float log2_approx(float x) { return emulator::canonical(std::log2(x)); }

MMK_DEVICE float reciprocal(float x) { return emulator::canonical(1.0f / x); }

MMK_DEVICE float fused(float a, float b, float c) { return emulator::canonical(std::fma(a, b, c)); }

MMK_DEVICE float maximum(float a, float b) {
  if (a == b) return bits_as<float>(bits_as<uint32_t>(a) & bits_as<uint32_t>(b));  // of two zeros, the positive one
  return emulator::canonical(a != a || a < b ? b : a);
}

MMK_DEVICE int lowest_bit(uint32_t bits) { return bits == 0 ? 32 : __builtin_ctz(bits); }

MMK_NAMESPACE_END
