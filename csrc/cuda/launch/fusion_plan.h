// The launches that make up a concat_fusion call, in order; plain host code, which the emulator runs as well.
//
// `Device` does them: `take<X>(count)` gives that many elements of scratch, which hold until the call is over, and
// `launch<Kernel>(call, blocks)` launches. A device that launches nothing and adds up what is taken measures a workspace.
#pragma once

#include "fusion_table.h"

MMK_NAMESPACE_BEGIN

inline RowSpace row_space(const FusionProblem& p) {
  RowSpace space;
  space.axes = p.axes;
  for (int axis = 0; axis < p.axes; ++axis) space.size[axis] = static_cast<uint32_t>(p.size[axis]);
  space.rows = p.rows;
  return space;
}

/// The own rows of a shared source.
inline RowSpace own_space(const FusionProblem& p, const Source& s) {
  RowSpace space = row_space(p);
  for (int axis = 0; axis < p.axes; ++axis)
    space.size[axis] = s.own[axis] != 0 ? static_cast<uint32_t>(p.size[axis]) : 1;
  space.rows = s.own_rows;
  return space;
}

/// A dense matrix with a row for each of the space.
inline RowView dense_rows(const RowSpace& space, void* data, DType dtype, int64_t width) {
  RowView view;
  view.data = data;
  view.dtype = dtype;
  int64_t step = width;
  for (int axis = space.axes - 1; axis >= 0; --axis) {
    view.stride[axis] = step;
    step *= space.size[axis];
  }
  return view;
}

inline FusionOperand operand_of(const Source& s) {
  FusionOperand operand;
  operand.data = s.x.data;
  for (int axis = 0; axis < kMaxRowAxes; ++axis) operand.stride[axis] = s.x.stride[axis];
  operand.width = s.width;
  operand.first = s.first;
  return operand;
}

/// f(tiles, blocks, column tiles) with the wide tile where it keeps the processors busy.
template <class T, bool kWhole, class F>
void with_fusion_tile(int processors, int64_t rows, int64_t columns, const F& f) {
  const auto blocks = [&](int64_t size) { return ceil_div(rows, size) * ceil_div(columns, size); };
  if (blocks(128) >= processors)
    return f(WideFusion<T, kWhole>{}, blocks(128), static_cast<int>(ceil_div(columns, 128)));
  f(SmallFusion<T, kWhole>{}, blocks(64), static_cast<int>(ceil_div(columns, 64)));
}
template <class T, class F>
void with_fusion_tile(bool whole, int processors, int64_t rows, int64_t columns, const F& f) {
  if (whole) return with_fusion_tile<T, true>(processors, rows, columns, f);
  with_fusion_tile<T, false>(processors, rows, columns, f);
}

/// bias + W norm_bias; nullptr where there is neither. `level`: where W norm_weight goes, or nullptr.
template <class T, class Device>
const float* fusion_constant(const FusionProblem& p, Device& device, float* level = nullptr) {
  if (!p.norm_bias && !level) return p.bias;
  WeightSumCall call;
  call.weight = p.weight;
  call.weight_stride = p.weight_stride;
  call.out = p.out;
  call.width = p.width;
  call.bias = p.bias;
  call.norm_bias = p.norm_bias;
  call.norm_weight = p.norm_weight;
  if (p.norm_bias) call.constant = device.template take<float>(p.out);
  call.level = level;
  device.template launch<FusionWeightSums<T>>(call, ceil_div(p.out, RowWarps::kRows));
  return p.norm_bias ? call.constant : p.bias;
}

template <class T, class Device>
class FusionForward {
 public:
  FusionForward(const FusionProblem& p, int processors, Device& device)
      : p_(p), processors_(processors), device_(device) {}

  void run() {
    if (p_.rows == 0) return;
    call_.space = row_space(p_);
    call_.weight = p_.weight;
    call_.weight_stride = p_.weight_stride;
    call_.out = p_.out;
    call_.width = p_.width;
    call_.norm = p_.norm;
    call_.norm_weight = p_.norm_weight;
    call_.eps = p_.eps;
    call_.mean = p_.mean;
    call_.rstd = p_.rstd;
    call_.num_sources = p_.num_sources;
    for (int i = 0; i < p_.num_sources; ++i) call_.sources[i] = operand_of(p_.sources[i]);
    if (p_.norm != NormKind::kNone) {
      device_.template launch<FusionStatistics<T>>(call_, ceil_div(p_.rows, RowWarps::kRows));
    }
    if (p_.out == 0) return;
    call_.constant = fusion_constant<T>(p_, device_);
    call_.gate = p_.gate;
    call_.residual = p_.residual;
    call_.result = p_.result;
    call_.activation = p_.activation;
    call_.product = p_.product;
    if (p_.norm == NormKind::kNone) {
      for (int i = 0; i < p_.num_sources; ++i) {
        if (p_.sources[i].shared) multiply_shared(p_.sources[i], call_.sources[i]);
      }
    }
    multiply(call_);
  }

 private:
  /// Turns a shared source into its product with the weight, of its own rows.
  void multiply_shared(const Source& s, FusionOperand& operand) {
    FusionLaunch own;
    own.space = own_space(p_, s);
    own.sources[0] = operand;
    own.num_sources = 1;
    own.weight = p_.weight;
    own.weight_stride = p_.weight_stride;
    own.out = p_.out;
    own.result = dense_rows(own.space, device_.template take<float>(s.own_rows * p_.out), DType::kFloat32, p_.out);
    multiply(own);
    operand.data = own.result.data;
    operand.multiplied = true;
    for (int axis = 0; axis < p_.axes; ++axis) operand.stride[axis] = s.own[axis] * p_.out;
  }

  void multiply(FusionLaunch& call) {
    bool whole = true;
    for (int i = 0; i < call.num_sources; ++i) {
      const FusionOperand& s = call.sources[i];
      whole = whole && (s.multiplied || (whole_chunks<T>(call.space, s.stride, s.data, s.width) &&
                                         whole_columns<T>(call.weight, call.weight_stride, s.first, s.width)));
    }
    with_fusion_tile<T>(whole, processors_, call.space.rows, call.out,
                        [&](auto tile, int64_t blocks, int column_tiles) {
                          using Tile = decltype(tile);
                          call.column_tiles = column_tiles;
                          if (call.norm == NormKind::kNone) {
                            device_.template launch<typename Tile::template Forward<false>>(call, blocks);
                          } else {
                            device_.template launch<typename Tile::template Forward<true>>(call, blocks);
                          }
                        });
  }

  const FusionProblem& p_;
  const int processors_;
  Device& device_;
  FusionLaunch call_;
};

MMK_NAMESPACE_END
