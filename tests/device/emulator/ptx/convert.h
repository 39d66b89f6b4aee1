// The emulator's twin of csrc/cuda/ptx/convert.h, to the bit: NaN comes out as the one NaN that the instructions give.
#pragma once

#include "memory.h"

namespace emulator {

inline float float_from(uint32_t bits) { return mmkernels::MMK_ISA::bits_as<float>(bits); }
inline uint32_t bits_of(float x) { return mmkernels::MMK_ISA::bits_as<uint32_t>(x); }

inline float canonical(float x) { return x == x ? x : float_from(0x7fffffffu); }

/// fp32 of an fp16 number. NaN keeps its payload.
inline float widen_half(uint32_t bits) {
  // The exponent and the fraction at their fp32 places stand for a number 2^112 too small, subnormal ones included.
  const uint32_t magnitude = bits_of(float_from((bits & 0x7fffu) << 13) * 0x1p112f);
  const uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
  return float_from(magnitude | special | (bits & 0x8000u) << 16);
}

/// The nearest number whose fraction ends `dropped` bits early, as fp32 bits; ties go to the even one.
inline uint32_t round_away_bits(uint32_t bits, int dropped) {
  return bits + (1u << (dropped - 1)) - 1 + (bits >> dropped & 1);
}

inline uint16_t narrow_half(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // from 65520 on
  if (magnitude < 0x38800000u) {  // below 2^-14: as many units of 2^-24, which fp32 rounds while it adds 0.5
    return static_cast<uint16_t>(sign | (bits_of(float_from(magnitude) + 0.5f) - bits_of(0.5f)));
  }
  return static_cast<uint16_t>(sign | (round_away_bits(magnitude, 13) - (112u << 23)) >> 13);
}

inline uint16_t narrow_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>(round_away_bits(bits, 16) >> 16);
}

}  // namespace emulator

MMK_NAMESPACE_BEGIN

MMK_DEVICE float widen(float x) { return x; }
MMK_DEVICE float widen(Half x) { return emulator::canonical(emulator::widen_half(x.bits)); }
MMK_DEVICE float widen(BFloat16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }

template <class T>
MMK_DEVICE uint32_t pack(float low, float high);
template <>
MMK_DEVICE uint32_t pack<Half>(float low, float high) {
  return static_cast<uint32_t>(emulator::narrow_half(high)) << 16 | emulator::narrow_half(low);
}
template <>
MMK_DEVICE uint32_t pack<BFloat16>(float low, float high) {
  return static_cast<uint32_t>(emulator::narrow_bfloat16(high)) << 16 | emulator::narrow_bfloat16(low);
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
