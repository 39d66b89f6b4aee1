// How an attention backward is laid out on the device: its launches in order, and their memory. Sizes only; plain host
// code, which the emulator runs as well.
#pragma once

#include "../tile/gradient_call.h"
#include "attention_plan.h"

MMK_NAMESPACE_BEGIN

/// Whether all rows that the products read can be copied in chunks of 16 bytes.
inline bool backward_whole_chunks(const AttentionProblem& p) {
  bool whole = whole_chunks(p.query, p.dim_qk) && whole_chunks(p.grad_out, p.dim_v);
  for (int s = 0; s < p.num_segments; ++s)
    whole = whole && whole_chunks(p.segments[s].key, p.dim_qk) && whole_chunks(p.segments[s].value, p.dim_v);
  return whole;
}

struct BackwardLaunch {
  AttentionBackwardCall call;
  int64_t blocks = 0;
  int64_t scratch_bytes = 0;
};

inline BackwardLaunch backward_launch(const AttentionProblem& p) {
  BackwardLaunch launch;
  launch.call.problem = p;
  launch.call.problem.segments = nullptr;
  for (int s = 0; s < p.num_segments; ++s) launch.call.segments[s] = p.segments[s];
  return launch;
}

inline int64_t statistics_rows(const AttentionProblem& p) {
  return (p.cu_q != nullptr ? 1 : p.batch) * p.heads_q * p.len_q;
}
inline int64_t statistics_bytes(const AttentionProblem& p) {
  return statistics_rows(p) * static_cast<int64_t>(sizeof(RowStatistics));
}

template <class Kernel>
BackwardLaunch plan_delta(const AttentionProblem& p) {
  BackwardLaunch launch = backward_launch(p);
  launch.blocks = ceil_div(statistics_rows(p), Kernel::kWarps);
  return launch;
}

template <class Kernel>
BackwardLaunch plan_backward_rows(const AttentionProblem& p) {
  BackwardLaunch launch = backward_launch(p);
  if (p.bias.kind == BiasKind::kNone) return launch;
  const bool packed = p.cu_q != nullptr;
  launch.call.tiles = static_cast<int>(ceil_div(p.len_q, Kernel::kRows) + (packed ? p.batch : 0));
  launch.blocks = launch.call.tiles * p.heads_q * (packed ? 1 : p.batch);
  return launch;
}

template <class Kernel>
BackwardLaunch plan_backward_query(const AttentionProblem& p) {
  BackwardLaunch launch = backward_launch(p);
  if (p.grad_query.data == nullptr) return launch;
  const bool packed = p.cu_q != nullptr;
  launch.call.tiles = static_cast<int>(ceil_div(p.len_q, Kernel::kRows) + (packed ? p.batch : 0));
  launch.blocks = launch.call.tiles * p.heads_q * (packed ? 1 : p.query_batches);
  int64_t chunks = 0;
  for (int s = 0; s < p.num_segments; ++s) chunks += ceil_div(p.segments[s].length, Kernel::kChunkKeys);
  if (!packed) chunks *= p.batch / (p.query_batches > 0 ? p.query_batches : 1);
  if (chunks > 1) launch.scratch_bytes = launch.blocks * Kernel::kStateNumbers * static_cast<int64_t>(sizeof(float));
  return launch;
}

/// One launch for the gradients of keys and values that `key` and `value` name.
template <class Kernel>
BackwardLaunch plan_backward_keys(const AttentionProblem& p, bool key, bool value) {
  BackwardLaunch launch = backward_launch(p);
  launch.call.wants_key = key;
  launch.call.wants_value = value;
  const bool packed = p.cu_q != nullptr;
  int64_t chunks = ceil_div(p.len_q, Kernel::kChunkRows) * (p.heads_q / p.heads_k);
  if (packed) {
    launch.call.tiles = static_cast<int>(ceil_div(p.len_k, Kernel::kRows) + p.batch);
    launch.blocks = launch.call.tiles * p.heads_k;
  } else {
    for (int s = 0; s < p.num_segments; ++s) {
      const Segment& segment = p.segments[s];
      launch.blocks +=
          ceil_div(segment.length, Kernel::kRows) * p.heads_k * (key ? segment.key_batches : segment.value_batches);
    }
    chunks *= p.batch;  // of a segment that is broadcast along it
  }
  if (chunks > 1) launch.scratch_bytes = launch.blocks * Kernel::kStateNumbers * static_cast<int64_t>(sizeof(float));
  return launch;
}

template <class Kernel>
BackwardLaunch plan_backward_bias(const AttentionProblem& p, int part) {
  BackwardLaunch launch = backward_launch(p);
  if (p.bias.grad[part] == nullptr) return launch;
  launch.call.part = part;
  const int64_t (&size)[4] = p.bias.size[part];
  launch.blocks = size[0] * size[1] * ceil_div(size[2], Kernel::kRows) * ceil_div(size[3], Kernel::kWindow);
  return launch;
}

/// Whether the gradients of keys and of values are wanted, and whether one launch may make both.
struct WantedOfKeys {
  bool key = false, value = false, together = true;
};
inline WantedOfKeys wanted_of_keys(const AttentionProblem& p) {
  WantedOfKeys wanted;
  for (int s = 0; s < p.num_segments; ++s) {
    const Segment& segment = p.segments[s];
    wanted.key |= segment.grad_key.data != nullptr;
    wanted.value |= segment.grad_value.data != nullptr;
    wanted.together &= segment.key_batches == segment.value_batches;
  }
  return wanted;
}

MMK_NAMESPACE_END
