// fp32 from and to the stored types, rounding to nearest even.
#pragma once

#include "memory.h"

MMK_NAMESPACE_BEGIN

MMK_DEVICE float widen(float x) { return x; }
MMK_DEVICE float widen(Half x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}
MMK_DEVICE float widen(BFloat16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }

/// Two numbers in one word, `low` in its low half.
template <class T>
MMK_DEVICE uint32_t pack(float low, float high);
template <>
MMK_DEVICE uint32_t pack<Half>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
template <>
MMK_DEVICE uint32_t pack<BFloat16>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

template <class T>
MMK_DEVICE T narrow(float x) {
  return {static_cast<uint16_t>(pack<T>(x, 0.0f))};
}
template <>
MMK_DEVICE float narrow<float>(float x) {
  return x;
}

MMK_NAMESPACE_END
