// What the shared formulas need from a lane: a float (one CUDA thread, one scalar) or a vector of rows (cpu/simd.h).
#pragma once

#include <cmath>

#include "namespace.h"

MMK_NAMESPACE_BEGIN

template <class Lane>
struct LaneOps;

template <>
struct LaneOps<float> {
  MMK_HOST_DEVICE static float splat(float x) { return x; }
  MMK_HOST_DEVICE static float maximum(float a, float b) { return a > b ? a : b; }
  MMK_HOST_DEVICE static float exponential(float x) { return std::exp(x); }
  MMK_HOST_DEVICE static float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
  MMK_HOST_DEVICE static float hyperbolic_tangent(float x) { return std::tanh(x); }
  MMK_HOST_DEVICE static float where_less(float a, float b, float yes, float no) { return a < b ? yes : no; }
  MMK_HOST_DEVICE static float zero_where_minus_infinity(float x) { return x == -INFINITY ? 0.0f : x; }
};

MMK_NAMESPACE_END
