// How an attention call is laid out on the device: which kernel, tiles, splits, memory. Sizes only; plain host code, which
// the emulator runs as well.
#pragma once

#include "../../core/attention_problem.h"
#include "../../core/namespace.h"
#include "../tile/attention_call.h"

MMK_NAMESPACE_BEGIN

enum class ForwardKind { kPlain, kFew, kGeneral, kGeneralFew };

/// 32, 64, 128 or 256.
inline int attention_dim(const AttentionProblem& p) {
  const int64_t widest = larger(p.dim_qk, p.dim_v);
  return widest <= 32 ? 32 : widest <= 64 ? 64 : widest <= 128 ? 128 : 256;
}

/// Whether every row of a view can be copied in chunks of 16 bytes.
inline bool whole_chunks(const TensorView& view, int64_t dim) {
  const int64_t elements = view.dtype == DType::kFloat32 ? 4 : 8;
  return reinterpret_cast<uint64_t>(view.data) % 16 == 0 && view.batch % elements == 0 && view.head % elements == 0 &&
         view.row % elements == 0 && dim % elements == 0 && view.row >= 0 && view.row < (int64_t{1} << 24);
}

inline bool is_general(const AttentionProblem& p) {
  return p.bias.kind != BiasKind::kNone || p.softcap != 0.0f || p.dropout.active || p.mask.visible != nullptr ||
         !(p.scale > 0.0f);
}

inline ForwardKind forward_kind(const AttentionProblem& p) {
  const bool few = p.cu_q == nullptr && p.len_q * (p.heads_q / p.heads_k) <= 32;
  if (is_general(p)) return few ? ForwardKind::kGeneralFew : ForwardKind::kGeneral;
  for (int s = 0; s < p.num_segments; ++s) {
    if (!whole_chunks(p.segments[s].key, p.dim_qk) || !whole_chunks(p.segments[s].value, p.dim_v))
      return ForwardKind::kFew;
  }
  return few ? ForwardKind::kFew : ForwardKind::kPlain;
}

struct ForwardPlan {
  AttentionCall call;
  int64_t blocks = 0, merge_blocks = 0;  // merge_blocks: 0 without splits
  int64_t scratch_bytes = 0;
};

/// The plan of a kernel `F` (attention_forward.h) on a device with so many multiprocessors.
template <class F>
ForwardPlan plan_forward(const AttentionProblem& p, int processors) {
  ForwardPlan plan;
  AttentionCall& call = plan.call;
  call.problem = p;
  call.problem.segments = nullptr;
  for (int s = 0; s < p.num_segments; ++s) call.segments[s] = p.segments[s];
  const int64_t group = p.heads_q / p.heads_k;
  if (p.cu_q == nullptr && group > 1 && p.len_q * 2 <= F::kRows) call.pack = static_cast<int>(group);
  const int64_t rows = p.len_q * call.pack, heads = p.heads_q / call.pack;
  call.tiles = static_cast<int>(ceil_div(rows, F::kRows) + (p.cu_q != nullptr ? p.batch : 0));
  // one place of a packed grid stands for all sequences: the tile says which
  plan.merge_blocks = heads * call.tiles * (p.cu_q != nullptr ? 1 : p.batch);
  int64_t chunks = 0;
  for (int s = 0; s < p.num_segments; ++s) chunks += ceil_div(p.segments[s].length, F::kChunkKeys);
  if (F::kRows == 16 && p.cu_q == nullptr && chunks > 1 && plan.merge_blocks < 2 * processors)
    call.splits = static_cast<int>(chunks);
  plan.blocks = plan.merge_blocks * call.splits;
  if (call.splits == 1) plan.merge_blocks = 0;
  if (chunks > 1) plan.scratch_bytes = plan.blocks * F::kStateNumbers * static_cast<int64_t>(sizeof(float));
  return plan;
}

MMK_NAMESPACE_END
