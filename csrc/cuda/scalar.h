// The 16-bit floating-point types as the kernels store them. ptx/convert.h has what they mean; the toolkit's own headers
// are left out, for they take longer to compile than a kernel.
#pragma once

#include <cstdint>

#include "../core/namespace.h"

namespace mmkernels {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

/// n 32-bit words that move as one.
template <int n>
struct alignas(4 * n) Words {
  uint32_t word[n];
};

}  // namespace mmkernels

MMK_NAMESPACE_BEGIN

template <class To, class From>
MMK_HOST_DEVICE inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a change of name, not of size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

MMK_NAMESPACE_END
