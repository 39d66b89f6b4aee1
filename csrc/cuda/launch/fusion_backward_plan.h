// The launches that make up a backward of concat_fusion, in order (fusion_plan.h; formulas: kernels/fusion_gradients.h).
#pragma once

#include "fusion_plan.h"

MMK_NAMESPACE_BEGIN

template <class T, class Device>
class FusionBackward {
 public:
  FusionBackward(const FusionProblem& p, int processors, Device& device)
      : p_(p), processors_(processors), device_(device), space_(row_space(p)) {}

  /// Rows and outputs exist: without them every gradient is 0, which the caller writes.
  void run() {
    find_slopes();
    gate_gradient();
    sum_outputs();
    float* parts = nullptr;
    const int64_t groups = ceil_div(p_.out, SmallFusion<T, true>::template WeightGradient<true>::kGroup);
    if (p_.grad_norm_weight) parts = device_.template take<float>(groups * p_.width);
    for (int i = 0; i < p_.num_sources; ++i) {
      const Source& s = p_.sources[i];
      if (s.width == 0) continue;
      const bool shared_product = s.shared && p_.norm == NormKind::kNone;
      if (s.shared && (s.grad.data || (shared_product && p_.grad_weight))) {
        const RowView summed = shared_sums(s);
        if (s.grad.data) shared_gradient(s, summed);
        if (shared_product && p_.grad_weight) weight_gradient(s, own_space(p_, s), summed, nullptr);
      } else if (s.grad.data) {
        source_gradient(s, space_, dz_, p_.rstd, slope_, level_, p_.norm == NormKind::kLayer ? p_.mean : nullptr);
      }
      if (!shared_product && (p_.grad_weight || p_.grad_norm_weight)) weight_gradient(s, space_, dz_, parts);
    }
    if (parts) join(parts, 1, groups, p_.width, p_.grad_norm_weight, DType::kFloat32);
    if (p_.grad_norm_bias) norm_bias_gradient();
  }

 private:
  /// dz, a gate's row sums, and what a norm subtracts.
  void find_slopes() {
    bool inputs = false;
    for (int i = 0; i < p_.num_sources; ++i) inputs = inputs || p_.sources[i].grad.data;
    const bool norm = p_.norm != NormKind::kNone && inputs, layer = norm && p_.norm == NormKind::kLayer;
    SlopeCall call;
    if (layer) call.level_weights = level_weights_ = device_.template take<float>(p_.out);
    if (p_.activation != Activation::kNone || p_.grad_gate || layer) {
      constant_ = fusion_constant<T>(p_, device_, level_weights_);
    }
    dz_ = p_.grad_out;
    const bool copies =
        p_.activation != Activation::kNone || p_.gate.data || p_.grad_out.dtype != p_.dtype || p_.grad_out.column == 0;
    if (copies) {
      call.dz = device_.template take<T>(p_.rows * p_.out);
      dz_ = dense_rows(space_, call.dz, p_.dtype, p_.out);
    }
    if (p_.grad_gate && !p_.gate.column) call.gate_sums = gate_sums_ = device_.template take<float>(p_.rows);
    if (norm) call.slope = slope_ = device_.template take<float>(p_.rows);
    if (layer) call.level = level_ = device_.template take<float>(p_.rows);
    if (!copies && !norm) return;
    call.space = space_;
    call.grad_out = p_.grad_out;
    call.gate = p_.gate;
    call.out = p_.out;
    call.width = p_.width;
    call.product = p_.saved_product;
    call.constant = constant_;
    call.activation = p_.activation;
    call.rstd = p_.rstd;
    device_.template launch<FusionSlopes<T>>(call, ceil_div(p_.rows, RowWarps::kRows));
  }

  void gate_gradient() {
    if (!p_.grad_gate) return;
    SumCall call;
    call.space = space_;
    for (int axis = 0; axis < p_.axes; ++axis) call.own[axis] = p_.gate_own[axis];
    call.own_rows = p_.gate_rows;
    if (p_.gate.column) {
      call.rows = p_.grad_out;
      call.product = p_.saved_product;
      call.constant = constant_;
      call.activation = p_.activation;
      call.width = p_.out;
    } else {
      call.rows = dense_rows(space_, gate_sums_, DType::kFloat32, 1);
      call.width = 1;
    }
    sum(call, p_.grad_gate, DType::kFloat32);
  }

  /// dz summed over all rows.
  void sum_outputs() {
    const bool outer = p_.norm_bias && p_.grad_weight;
    if (!p_.grad_bias && !p_.grad_norm_bias && !outer) return;
    sums_ = p_.grad_bias ? p_.grad_bias : device_.template take<float>(p_.out);
    SumCall call;
    call.space = space_;
    call.rows = dz_;
    call.width = p_.out;
    sum(call, sums_, DType::kFloat32);
  }

  /// P of a shared source: rstd dz, summed over the rows that share one of its own.
  RowView shared_sums(const Source& s) {
    void* rows = device_.template take<T>(s.own_rows * p_.out);
    SumCall call;
    call.space = space_;
    for (int axis = 0; axis < p_.axes; ++axis) call.own[axis] = s.own[axis];
    call.own_rows = s.own_rows;
    call.rows = dz_;
    call.factor = p_.rstd;
    call.width = p_.out;
    sum(call, rows, p_.dtype);
    return dense_rows(own_space(p_, s), rows, p_.dtype, p_.out);
  }

  void shared_gradient(const Source& s, const RowView& summed) {
    SharedSlopeCall call;
    if (slope_) {
      call.space = space_;
      for (int axis = 0; axis < p_.axes; ++axis) call.own[axis] = s.own[axis];
      call.own_rows = s.own_rows;
      call.sharing = p_.rows / s.own_rows;
      call.slope = slope_;
      call.own_slope = device_.template take<float>(s.own_rows);
      if (level_) {
        call.level = level_;
        call.mean = p_.mean;
        call.own_level = device_.template take<float>(s.own_rows);
        call.own_mean = device_.template take<float>(s.own_rows);
      }
      device_.template launch<FusionSharedSlopes>(call, ceil_div(s.own_rows, RowWarps::kRows));
    }
    source_gradient(s, own_space(p_, s), summed, nullptr, call.own_slope, call.own_level, call.own_mean);
  }

  void source_gradient(const Source& s, const RowSpace& space, const RowView& slopes, const float* rstd,
                       const float* slope, const float* level, const float* mean) {
    SourceGradientCall call;
    call.space = space;
    call.slopes = slopes;
    call.out = p_.out;
    call.weight = static_cast<const T*>(p_.weight) + s.first;
    call.weight_stride = p_.weight_stride;
    call.width = s.width;
    call.x = s.x;
    call.grad = s.grad;
    call.norm_weight = p_.norm_weight ? p_.norm_weight + s.first : nullptr;
    call.rstd = rstd;
    call.slope = slope;
    call.level = level;
    call.mean = mean;
    const bool whole = whole_chunks<T>(space, slopes.stride, slopes.data, p_.out) &&
                       whole_columns<T>(call.weight, call.weight_stride, 0, s.width);
    with_fusion_tile<T>(whole, processors_, space.rows, s.width, [&](auto tile, int64_t blocks, int column_tiles) {
      call.column_tiles = column_tiles;
      device_.template launch<typename decltype(tile)::SourceGradient>(call, blocks);
    });
  }

  void weight_gradient(const Source& s, const RowSpace& space, const RowView& slopes, float* parts) {
    WeightGradientCall call;
    call.space = space;
    call.slopes = slopes;
    call.x = s.x;
    call.out = p_.out;
    call.width = s.width;
    call.weight = static_cast<const T*>(p_.weight) + s.first;
    call.weight_stride = p_.weight_stride;
    call.total_width = p_.width;
    if (p_.grad_weight) call.grad_weight = static_cast<T*>(p_.grad_weight) + s.first;
    if (parts) call.norm_weight_parts = parts + s.first;
    if (p_.norm_weight) call.norm_weight = p_.norm_weight + s.first;
    if (p_.norm_bias && p_.grad_weight) call.norm_bias = p_.norm_bias + s.first;
    call.sums = sums_;
    call.mean = p_.norm == NormKind::kLayer ? p_.mean : nullptr;
    call.rstd = p_.rstd;
    const bool whole = whole_chunks<T>(space, slopes.stride, slopes.data, p_.out) &&
                       whole_chunks<T>(space, s.x.stride, s.x.data, s.width);
    with_fusion_tile<T>(whole, processors_, p_.out, s.width, [&](auto tile, int64_t blocks, int column_tiles) {
      using Tile = decltype(tile);
      call.column_tiles = column_tiles;
      if (p_.norm == NormKind::kNone) {
        device_.template launch<typename Tile::template WeightGradient<false>>(call, blocks);
      } else {
        device_.template launch<typename Tile::template WeightGradient<true>>(call, blocks);
      }
    });
  }

  /// W^T dbias.
  void norm_bias_gradient() {
    SumCall call;
    call.space.axes = 1;
    call.space.size[0] = static_cast<uint32_t>(p_.out);
    call.space.rows = p_.out;
    call.rows.data = const_cast<void*>(p_.weight);
    call.rows.dtype = p_.dtype;
    call.rows.stride[0] = p_.weight_stride;
    call.factor = sums_;
    call.width = p_.width;
    sum(call, p_.grad_norm_bias, DType::kFloat32);
  }

  void sum(SumCall& call, void* to, DType dtype) {
    call.sharing = call.space.rows / call.own_rows;
    call.chunks = ceil_div(call.sharing, kSumRows);
    call.parts = device_.template take<float>(call.own_rows * call.chunks * call.width);
    const int64_t blocks = ceil_div(call.width, FusionSums<T>::kThreads);
    device_.template launch<FusionSums<T>>(call, call.own_rows * call.chunks * blocks);
    join(call.parts, call.own_rows, call.chunks, call.width, to, dtype);
  }

  void join(const float* parts, int64_t rows, int64_t chunks, int64_t width, void* to, DType dtype) {
    JoinCall call;
    call.parts = parts;
    call.rows = rows;
    call.chunks = chunks;
    call.width = width;
    call.to = to;
    call.dtype = dtype;
    device_.template launch<FusionJoin>(call, ceil_div(rows * width, FusionJoin::kThreads));
  }

  const FusionProblem& p_;
  const int processors_;
  Device& device_;
  const RowSpace space_;
  RowView dz_;
  const float* constant_ = nullptr;
  float *level_weights_ = nullptr, *slope_ = nullptr, *level_ = nullptr, *gate_sums_ = nullptr, *sums_ = nullptr;
};

MMK_NAMESPACE_END
