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
#include "type_of.h"

MMK_NAMESPACE_BEGIN

/// Keys of a block.
constexpr int attention_keys(int element_bytes, int dim) {
  if (element_bytes == 4) return dim <= 64 ? 64 : dim == 128 ? 32 : 16;
  return dim == 64 ? 80 : dim == 256 ? 32 : 64;  // 80: all that registers hold, and CLIP's 77 in one block
}

template <class T, int kDim>
struct ForwardKernels {
  static constexpr int kKeys = attention_keys(sizeof(T), kDim), kGeneralWarps = kDim == 256 ? 2 : 4;

  using Plain = AttentionForward<T, kDim, kDim <= 64 ? 2 : 1, kDim == 128 ? 8 : 4, kKeys, false, true>;
  using Few = AttentionForward<T, kDim, 1, 1, kKeys, false, false>;
  using General = AttentionForward<T, kDim, 1, kGeneralWarps, kKeys, true, false>;
  using GeneralFew = AttentionForward<T, kDim, 1, 1, kKeys, true, false>;
};

/// fp32 has the general kernels only: its products leave no time in which a difference would show.
template <int kDim>
struct ForwardKernels<float, kDim> {
  static constexpr int kKeys = attention_keys(4, kDim), kWarps = kDim == 256 ? 1 : kDim == 128 ? 2 : 4;

  using General = AttentionForward<float, kDim, 1, kWarps, kKeys, true, false>;
  using GeneralFew = AttentionForward<float, kDim, 1, 1, kKeys, true, false>;
  using Plain = General;
  using Few = GeneralFew;
};

/// Calls f with the TypeOf a kind's kernel.
template <class T, int kDim, class F>
void with_forward_kernel(ForwardKind kind, const F& f) {
  using Kernels = ForwardKernels<T, kDim>;
  switch (kind) {
    case ForwardKind::kPlain:
      return f(TypeOf<typename Kernels::Plain>{});
    case ForwardKind::kFew:
      return f(TypeOf<typename Kernels::Few>{});
    case ForwardKind::kGeneral:
      return f(TypeOf<typename Kernels::General>{});
    case ForwardKind::kGeneralFew:
      return f(TypeOf<typename Kernels::GeneralFew>{});
  }
}

MMK_NAMESPACE_END
