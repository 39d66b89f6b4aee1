// The one table of attention kernels. The launch code, the emulator and the documentation read it.
//
// Head dims are rounded up to a power of two (32 to 256); a tail of features is zeros in shared memory. Blocks of keys
// depend on dtype and head dim alone, so that a row has the same bits whichever kernel of its kind computes it:
//   plain    no bias, softcap, dropout or dense mask, a positive scale, keys and values in whole chunks
//   few      the same, for any strides, in tiles of 16 rows: few queries, or rows that are not aligned
//   general  everything else; with its own tiles of 16 rows
#pragma once

#include "../kernels/attention_forward.h"
#include "attention_plan.h"

MMK_NAMESPACE_BEGIN

/// Keys of a block.
constexpr int attention_keys(int element_bytes, int dim) {
  if (element_bytes == 4) return dim <= 64 ? 64 : dim == 128 ? 32 : 16;
  return dim <= 64 ? 96 : dim == 128 ? 64 : 32;
}

/// fp32 has the general kernels only: its products leave no time for a difference to show.
template <class T, int kDim>
struct ForwardKernels {
  static constexpr int kKeys = attention_keys(sizeof(T), kDim), kWide = sizeof(T) == 2 && kDim <= 64 ? 2 : 1;
  static constexpr int kGeneralWarps = kDim * static_cast<int>(sizeof(T)) >= 512 ? 2 : 4;
  static constexpr bool kIsFloat = sizeof(T) == 4;

  using Plain = AttentionForward<T, kDim, kWide, kDim == 128 ? 8 : 4, kKeys, kIsFloat, true>;
  using Few = AttentionForward<T, kDim, 1, 1, kKeys, kIsFloat, false>;
  using General = AttentionForward<T, kDim, 1, kGeneralWarps, kKeys, true, false>;
  using GeneralFew = AttentionForward<T, kDim, 1, 1, kKeys, true, false>;
};

template <class Kernel>
struct KernelType {
  using Type = Kernel;
};

/// Calls f with the KernelType of a kind.
template <class T, int kDim, class F>
void with_forward_kernel(ForwardKind kind, const F& f) {
  using Kernels = ForwardKernels<T, kDim>;
  switch (kind) {
    case ForwardKind::kPlain:
      return f(KernelType<typename Kernels::Plain>{});
    case ForwardKind::kFew:
      return f(KernelType<typename Kernels::Few>{});
    case ForwardKind::kGeneral:
      return f(KernelType<typename Kernels::General>{});
    case ForwardKind::kGeneralFew:
      return f(KernelType<typename Kernels::GeneralFew>{});
  }
}

MMK_NAMESPACE_END
