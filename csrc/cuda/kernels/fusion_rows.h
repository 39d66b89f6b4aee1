// What concat_fusion computes row by row, a warp each, beside its products: the norm's statistics, sums along the rows of
// the weight, and the backward's dz = gate * act'(z) * dy.
#pragma once

#include "../tile/activate.h"
#include "../tile/fusion_call.h"

MMK_NAMESPACE_BEGIN

struct RowWarps {
  static constexpr int kThreads = 128, kRows = kThreads / 32, kSharedBytes = 0, kBlocks = 1;

  MMK_DEVICE static int64_t row() { return int64_t{block_index_x()} * kRows + warp_index(); }
};

/// mean and 1 / std of the rows of the virtual concatenation; the sum of squares is around a first guess of the mean, so
/// that nothing cancels where |mean| >> std.
template <class T>
struct FusionStatistics : RowWarps {
  using Call = FusionLaunch;
  const FusionLaunch& call;

  MMK_DEVICE explicit FusionStatistics(const FusionLaunch& c) : call(c) {}

  template <class F>
  MMK_DEVICE void for_each_feature(int64_t row, const F& f) const {
    for (int i = 0; i < call.num_sources; ++i) {
      const FusionOperand& s = call.sources[i];
      const Global<const T> from = global<T>(s.data) + row_offset(call.space, s.stride, row);
      for (int64_t k = lane_index(); k < s.width; k += 32) f(widen(load(from + k)));
    }
  }

  MMK_DEVICE void run() const {
    const int64_t row = this->row();
    if (row >= call.space.rows) return;
    const float width = static_cast<float>(call.width);
    float guess = 0.0f;
    if (call.mean) {
      for_each_feature(row, [&](float x) { guess += x; });
      guess = warp_sum(guess) / width;
    }
    float sum = 0.0f, squares = 0.0f;
    for_each_feature(row, [&](float x) {
      const float d = x - guess;
      sum += d;
      squares = fused(d, d, squares);
    });
    sum = call.mean ? warp_sum(sum) / width : 0.0f;
    squares = warp_sum(squares) / width - sum * sum;
    if (lane_index() != 0) return;
    if (call.mean) store(global<float>(static_cast<void*>(call.mean)) + row, guess + sum);
    store(global<float>(static_cast<void*>(call.rstd)) + row, 1.0f / std::sqrt(squares + call.eps));
  }
};

struct WeightSumCall {
  const void* weight = nullptr;
  int64_t weight_stride = 0, out = 0, width = 0;
  const float *bias = nullptr, *norm_bias = nullptr, *norm_weight = nullptr;
  float *constant = nullptr, *level = nullptr;  // bias + W norm_bias, W norm_weight; nullptr: not wanted
};

template <class T>
struct FusionWeightSums : RowWarps {
  using Call = WeightSumCall;
  const WeightSumCall& call;

  MMK_DEVICE explicit FusionWeightSums(const WeightSumCall& c) : call(c) {}

  MMK_DEVICE void run() const {
    const int64_t n = row();
    if (n >= call.out) return;
    const Global<const T> weight = global<T>(call.weight) + n * call.weight_stride;
    float constant = 0.0f, level = 0.0f;
    for (int64_t k = lane_index(); k < call.width; k += 32) {
      const float w = widen(load(weight + k));
      if (call.norm_bias) constant = fused(w, load(global<float>(call.norm_bias) + k), constant);
      level = fused(w, call.norm_weight ? load(global<float>(call.norm_weight) + k) : 1.0f, level);
    }
    constant = warp_sum(constant);
    level = warp_sum(level);
    if (lane_index() != 0) return;
    if (call.bias) constant += load(global<float>(call.bias) + n);
    if (call.constant) store(global<float>(static_cast<void*>(call.constant)) + n, constant);
    if (call.level) store(global<float>(static_cast<void*>(call.level)) + n, level);
  }
};

struct SlopeCall {
  RowSpace space;
  RowView grad_out, gate;
  int64_t out = 0, width = 0;
  const void* product = nullptr;    // u, dense; nullptr where nothing needs it
  const float* constant = nullptr;  // z = u + constant
  Activation activation = Activation::kNone;
  void* dz = nullptr;                    // dense, or nullptr: it is grad_out
  float* gate_sums = nullptr;            // of a row's grad_out * act(z); for the gradient of a gate without columns
  const float* rstd = nullptr;           // with a norm whose inputs' gradients are wanted:
  const float* level_weights = nullptr;  // W g
  float *slope = nullptr, *level = nullptr;
};

/// z of one element.
template <class T>
MMK_DEVICE float pre_activation(const void* product, const float* constant, int64_t row, int64_t out, int64_t column) {
  const float u = widen(load(global<T>(product) + (row * out + column)));
  return constant ? u + load(global<float>(constant) + column) : u;
}

/// dz, and the means over the features that a norm's backward subtracts:
///     dx = rstd (dz W) g - slope (x - mean) - level,   slope = rstd^2 (dz . u) / K,   level = rstd (dz . W g) / K
template <class T>
struct FusionSlopes : RowWarps {
  using Call = SlopeCall;
  const SlopeCall& call;

  MMK_DEVICE explicit FusionSlopes(const SlopeCall& c) : call(c) {}

  MMK_DEVICE void run() const {
    const int64_t row = this->row();
    if (row >= call.space.rows) return;
    const int64_t grad = row_offset(call.space, call.grad_out.stride, row);
    const int64_t gate = call.gate.data ? row_offset(call.space, call.gate.stride, row) : 0;
    float along_u = 0.0f, along_weight = 0.0f, gate_sum = 0.0f;
    for (int64_t n = lane_index(); n < call.out; n += 32) {
      float d = read_number(call.grad_out.data, call.grad_out.dtype, grad + n);
      const float z = call.product ? pre_activation<T>(call.product, call.constant, row, call.out, n) : 0.0f;
      if (call.gate_sums) gate_sum = fused(d, activate(call.activation, z), gate_sum);
      if (call.gate.data) d *= read_number(call.gate.data, call.gate.dtype, gate + n * call.gate.column);
      d = activation_backward(call.activation, d, z);
      if (call.dz) store(global<T>(call.dz) + (row * call.out + n), narrow<T>(d));
      if (call.slope) along_u = fused(d, pre_activation<T>(call.product, nullptr, row, call.out, n), along_u);
      if (call.level) along_weight = fused(d, load(global<float>(call.level_weights) + n), along_weight);
    }
    along_u = warp_sum(along_u);
    along_weight = warp_sum(along_weight);
    gate_sum = warp_sum(gate_sum);
    if (lane_index() != 0) return;
    if (call.gate_sums) store(global<float>(static_cast<void*>(call.gate_sums)) + row, gate_sum);
    if (!call.slope) return;
    const float rstd = load(global<float>(call.rstd) + row), width = static_cast<float>(call.width);
    store(global<float>(static_cast<void*>(call.slope)) + row, along_u * (rstd * rstd) / width);
    if (call.level) store(global<float>(static_cast<void*>(call.level)) + row, along_weight * rstd / width);
  }
};

MMK_NAMESPACE_END
