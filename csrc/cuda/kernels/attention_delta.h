// What the backward must know of every row before it starts, a warp a row:
//
//   delta = sum(grad_out * out) - grad_lse        shift = lse
//
// of which the gradient of a logit is weight * (dP - delta). A row whose lse is -inf, because it sees no key or all of its
// logits are -inf, has no weights: its shift is +inf, so that exp(logit - shift) is 0. One whose sum is infinite is NaN, as its output is.
#pragma once

#include "../tile/gradient_call.h"
#include "../tile/product.h"

MMK_NAMESPACE_BEGIN

template <class T>
struct AttentionDelta {
  static constexpr int kWarps = 8, kThreads = 32 * kWarps, kSharedBytes = 0;

  const AttentionBackwardCall& call;
  MMK_DEVICE explicit AttentionDelta(const AttentionBackwardCall& c) : call(c) {}

  MMK_DEVICE void run() const {
    const AttentionProblem& p = call.problem;
    const int64_t index = static_cast<int64_t>(block_index_x()) * kWarps + warp_index();
    const int64_t batches = p.cu_q != nullptr ? 1 : p.batch;
    if (index >= batches * p.heads_q * p.len_q) return;
    const int64_t row = index % p.len_q, head = index / p.len_q % p.heads_q, batch = index / p.len_q / p.heads_q;
    const auto row_of = [&](const TensorView& view) {
      return global<T>(static_cast<const void*>(view.data)) + (batch * view.batch + head * view.head + row * view.row);
    };
    const auto number_of = [&](const float* data, const int64_t (&stride)[3]) {
      return load(global<float>(static_cast<const void*>(data)) +
                  (batch * stride[0] + head * stride[1] + row * stride[2]));
    };
    const Global<const T> out = row_of(p.out), grad_out = row_of(p.grad_out);
    float delta = 0.0f;
    for (int i = lane_index(); i < p.dim_v; i += 32)
      delta = fused(widen(load(grad_out + i)), widen(load(out + i)), delta);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) delta += shuffle_xor(delta, mask);
    const float lse = number_of(p.lse, p.lse_stride);
    if (p.grad_lse != nullptr) delta -= number_of(p.grad_lse, p.grad_lse_stride);
    if (lane_index() != 0) return;
    const RowStatistics found{lse == -INFINITY ? INFINITY : lse == INFINITY ? NAN : lse, 1.0f, delta, 0.0f};
    store16(global<float>(static_cast<void*>(call.statistics)) + 4 * index, bits_as<Words<4>>(found));
  }
};

MMK_NAMESPACE_END
