// One launch of a kernel of the attention backward: the forward's call, what rows have been found to be, and what is
// wanted.
#pragma once

#include <cmath>

#include "attention_call.h"

namespace mmkernels {

struct AttentionBackwardCall : AttentionCall {
  float* statistics = nullptr;  // RowStatistics of (batch, head, row); packed: (head, row)
  bool wants_key = false, wants_value = false;
  int part = 0;  // of the bias
};

}  // namespace mmkernels

MMK_NAMESPACE_BEGIN

/// What the backward knows of a row of logits: its weights are exp(logit - shift) * factor, and a logit's gradient is
/// weight * (dropped dP - delta). A row without a visible key has shift +inf: every weight is 0.
struct alignas(16) RowStatistics {
  float shift, factor, delta, unused;
};

MMK_DEVICE int64_t statistics_index(const AttentionProblem& p, int batch, int head, int64_t row) {
  return ((p.cu_q != nullptr ? 0 : batch) * p.heads_q + head) * p.len_q + row;
}
MMK_DEVICE RowStatistics statistics_of(const AttentionBackwardCall& call, const Place& place, QueryRow row) {
  if (!row.inside) return {INFINITY, 1.0f, 0.0f, 0.0f};
  const int64_t index = statistics_index(call.problem, place.batch, row.head, place.query_first + row.query);
  return bits_as<RowStatistics>(load16(global<float>(static_cast<const void*>(call.statistics)) + 4 * index));
}

MMK_NAMESPACE_END
