// The one table of the attention backward's kernels. The launch code, the emulator and the documentation read it.
//
// Tiles depend on the bytes of a row alone, so that shared memory (99 KiB) and registers suffice. Rows of 512 bytes and
// more leave no registers for dk and dv at once: each has a kernel of its own there, which makes the logits again.
#pragma once

#include "../kernels/attention_backward_bias.h"
#include "../kernels/attention_backward_keys.h"
#include "../kernels/attention_backward_query.h"
#include "../kernels/attention_backward_rows.h"
#include "../kernels/attention_delta.h"
#include "attention_backward_plan.h"
#include "attention_table.h"

MMK_NAMESPACE_BEGIN

/// `general`: softcap, bias, dense mask, dropout, a scale that is not positive, rows without whole chunks, and all of fp32,
/// whose products leave no time in which a difference would show.
template <class T, int kDim, bool kGeneral>
struct BackwardKernels {
  static constexpr int kBytes = kDim * static_cast<int>(sizeof(T));
  static constexpr int kWarps = kBytes <= 256 ? 4 : kBytes == 512 ? 2 : 1;
  static constexpr int kKeys = kBytes <= 128 ? (kGeneral ? 32 : 64) : kBytes == 256 ? 32 : kBytes == 512 ? 16 : 8;
  /// Half as many where dk and dv and what belongs to masks and biases would fill more than the registers.
  static constexpr int kQueries = kGeneral && (kBytes == 256 || (kBytes == 512 && sizeof(T) == 4)) ? kKeys / 2 : kKeys;
  static constexpr bool kIsGeneral = kGeneral;
  static constexpr bool kTogether = kDim <= 128;
  /// Without v there is room for twice the keys.
  static constexpr int kValueWarps = kTogether || kGeneral ? kWarps : 2 * kWarps;

  using Query = AttentionBackwardQuery<T, kDim, kWarps, kKeys, kGeneral>;
  using Key = AttentionBackwardKeys<T, kDim, kWarps, kQueries, kGeneral, true, kTogether>;
  using Value = AttentionBackwardKeys<T, kDim, kValueWarps, kQueries, kGeneral, kTogether, true>;
  using Rows = AttentionBackwardRows<T, kDim, kWarps, kKeys>;
  using Bias = AttentionBackwardBias<T, kDim, kWarps, kKeys>;
};

/// Calls f with the TypeOf a call's kernels.
template <class T, int kDim, class F>
void with_backward_kernels(const AttentionProblem& p, const F& f) {
  if constexpr (sizeof(T) == 2) {
    if (!is_general(p) && backward_whole_chunks(p)) return f(TypeOf<BackwardKernels<T, kDim, false>>{});
  }
  f(TypeOf<BackwardKernels<T, kDim, true>>{});
}

/// Calls f(TypeOf<Kernel>, launch) for every launch of a backward in order; `Kernels` is of the table.
template <class Kernels, class Delta, class F>
void for_each_backward_launch(const AttentionProblem& p, const F& f) {
  f(TypeOf<Delta>{}, plan_delta<Delta>(p));
  if constexpr (Kernels::kIsGeneral) {
    using Kernel = typename Kernels::Rows;
    f(TypeOf<Kernel>{}, plan_backward_rows<Kernel>(p));
  }
  f(TypeOf<typename Kernels::Query>{}, plan_backward_query<typename Kernels::Query>(p));
  const WantedOfKeys wanted = wanted_of_keys(p);
  const bool together = Kernels::kTogether && wanted.together && wanted.key && wanted.value;
  if (wanted.key) {
    using Kernel = typename Kernels::Key;
    f(TypeOf<Kernel>{}, plan_backward_keys<Kernel>(p, true, together));
  }
  if (wanted.value && !together) {
    using Kernel = typename Kernels::Value;
    f(TypeOf<Kernel>{}, plan_backward_keys<Kernel>(p, false, true));
  }
  if constexpr (Kernels::kIsGeneral) {
    using Kernel = typename Kernels::Bias;
    for (int part = 0; part < 2; ++part) f(TypeOf<Kernel>{}, plan_backward_bias<Kernel>(p, part));
  }
}

MMK_NAMESPACE_END
