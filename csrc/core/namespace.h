// Every function of csrc/core and csrc/cpu lives in a namespace named after the instruction set it is compiled for.
//
// The same sources are compiled several times into one library. Were their inline functions in one namespace, the
// linker would keep one copy of each, perhaps the AVX-512 one, and call it on a machine without AVX-512.
// Plain structs (no functions) stay outside, so that all sides can pass them to one another.
#pragma once

#ifndef MMK_ISA
#define MMK_ISA baseline
#endif

/// For functions that take or return a vector in a loop: a call would send it through memory.
#define MMK_ALWAYS_INLINE inline __attribute__((always_inline))

#ifdef __CUDACC__
#define MMK_HOST_DEVICE __host__ __device__
#else
#define MMK_HOST_DEVICE
#endif

#define MMK_NAMESPACE_BEGIN \
  namespace mmkernels {     \
  namespace MMK_ISA {
#define MMK_NAMESPACE_END \
  }                       \
  }

MMK_NAMESPACE_BEGIN

template <class T>
MMK_HOST_DEVICE constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
MMK_HOST_DEVICE constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

MMK_HOST_DEVICE constexpr long long ceil_div(long long a, long long b) { return (a + b - 1) / b; }

MMK_NAMESPACE_END
