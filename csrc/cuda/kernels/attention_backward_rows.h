// Maximum and sum, anew, of rows whose lse is far from 0, for calls with a bias.
//
// exp(logit - lse) inherits the rounding of lse, |lse| 2^-24. In a row of finfo.min it would be everything: finfo.min +
// log(n) rounds to finfo.min, and each weight would come out as 1. So such rows take exp(logit - maximum) / sum. Tiles
// without one end at once; a row's numbers depend on its own logits only.
#pragma once

#include "attention_backward_query.h"

MMK_NAMESPACE_BEGIN

template <class T, int kDim, int kWarps, int kKeys>
struct AttentionBackwardRows : AttentionBackwardQuery<T, kDim, kWarps, kKeys, true> {
  using Pass = AttentionBackwardQuery<T, kDim, kWarps, kKeys, true>;
  using Pass::call, Pass::place, Pass::kRows, Pass::row_in_tile;
  using typename Pass::Pairs, typename Pass::Source;

  /// Rows nearer than this keep their lse.
  static constexpr float kFar = 64.0f;

  bool far[2];
  float top[2], sum[2];  // sum: of this lane's columns

  MMK_DEVICE explicit AttentionBackwardRows(const AttentionBackwardCall& c) : Pass(c) {}

  MMK_DEVICE QueryRow row(int r) const { return query_row(call, place, place.tile * kRows + row_in_tile(r)); }

  MMK_DEVICE bool is_far(QueryRow row) const {
    const AttentionProblem& p = call.problem;
    if (!row.inside) return false;
    const int64_t (&stride)[3] = p.lse_stride;
    const float lse =
        load(global<float>(static_cast<const void*>(p.lse)) +
             (place.batch * stride[0] + row.head * stride[1] + (place.query_first + row.query) * stride[2]));
    return (lse > kFar && lse < INFINITY) || (lse < -kFar && lse > -INFINITY);
  }

  /// One tile of pairs. The keys before have been read: stage_addends ends with a barrier of the warp, behind its product, and
  /// block_sees has one of the block where it has several warps.
  MMK_DEVICE void visit(const Source& source, int first) {
    if (!this->block_sees(first)) return;
    this->copy_block(source, 0, first);
    commit_copies();
    wait_copies<0>();
    sync_block();
    Pairs s;
    rows_by_rows(s, this->query(), warp_index() * 16, this->key(0));
    this->stage_addends(source, first);
    const int pair = lane_index() % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = -INFINITY;
#pragma unroll
      for (int n = 0; n < Pairs::kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s.at[0][n][2 * r + e];
          const float addend = load<float>(this->addend_at(row_in_tile(r), 8 * n + pair + e));
          x = addend == -INFINITY ? -INFINITY : capped(call.problem, x).logit + addend;
          most = maximum(most, x);
        }
      }
      most = maximum(top[r], quad_maximum(most));
      const float shift = safe_shift(most);
      sum[r] *= exp2_approx((top[r] - shift) * kLog2E);
      top[r] = most;
#pragma unroll
      for (int n = 0; n < Pairs::kColumnTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) sum[r] += exp2_approx((s.at[0][n][2 * r + e] - shift) * kLog2E);
    }
  }

  MMK_DEVICE void run() {
    const AttentionProblem& p = call.problem;
    this->memory = shared_memory();
    place = query_place(call, kRows, 1);
    if (!place.inside) return;
    bool some = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      far[r] = is_far(row(r));
      some = some || far[r];
      top[r] = -INFINITY;
      sum[r] = 0.0f;
    }
    const Blocks own{warp_any(some) ? 1u : 0u, 0u};
    if (share_blocks<kWarps>(own, this->words()).some == 0) return;
    this->dense_mask = has_dense_mask(p.mask);
    this->copy_queries(place.head);
    for (int s = 0; s < p.num_segments; ++s) {
      const Source source = key_source<T>(this->call, this->place, s);
      this->look_at(s, source);
      for (int first = 0; first < source.length; first += kKeys) visit(source, first);
    }
    commit_copies();
    wait_copies<0>();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float whole = quad_sum(sum[r]);
      if (!far[r] || lane_index() % 4 != 0) continue;
      const int64_t index = statistics_index(p, place.batch, row(r).head, place.query_first + row(r).query);
      const Global<float> to = global<float>(static_cast<void*>(call.statistics)) + 4 * index;
      store(to, top[r]);
      store(to + 1, reciprocal(whole));
    }
  }
};

MMK_NAMESPACE_END
