// The special function unit, and fp32 arithmetic whose fusing is written out.
#pragma once

#include "device.h"

MMK_NAMESPACE_BEGIN

/// 2^x within 2 ulp; 0 at -inf. Subnormal results are flushed to 0.
MMK_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// log2(x); -inf at 0.
MMK_DEVICE float log2_approx(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / x, rounded.
MMK_DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.rn.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// a b + c, rounded once.
MMK_DEVICE float fused(float a, float b, float c) {
  float y;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(a), "f"(b), "f"(c));
  return y;
}

/// The larger; a NaN loses.
MMK_DEVICE float maximum(float a, float b) {
  float y;
  asm("max.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

/// The number of the lowest bit set; 32 where there is none.
MMK_DEVICE int lowest_bit(uint32_t bits) {
  int number;
  asm("{\n .reg .b32 mirrored;\n brev.b32 mirrored, %1;\n clz.b32 %0, mirrored;\n}" : "=r"(number) : "r"(bits));
  return number;
}

MMK_NAMESPACE_END
