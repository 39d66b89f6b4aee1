// One launch of a concat_fusion kernel, as it travels in the kernel's parameters (4 KiB at most), and how its kernels find
// the rows of tensors that broadcast.
#pragma once

#include <ptx/convert.h>
#include <ptx/sync.h>

#include "../../core/fusion_problem.h"

namespace mmkernels {

/// The leading axes of the output, or those that a shared source has: the others are of size 1 then.
struct RowSpace {
  int axes = 0;
  uint32_t size[kMaxRowAxes] = {};
  int64_t rows = 0;  // less than 2^31
};

/// A tensor of `width` columns. Of a shared source, that has been multiplied, the fp32 product.
struct FusionOperand {
  const void* data = nullptr;
  int64_t stride[kMaxRowAxes] = {};
  int64_t width = 0, first = 0;  // columns [first, first + width) of the concatenation
  bool multiplied = false;
};

struct FusionLaunch {
  RowSpace space;
  FusionOperand sources[kMaxCudaSources];
  int num_sources = 0;
  const void* weight = nullptr;
  int64_t weight_stride = 0, out = 0, width = 0;
  const float *constant = nullptr, *norm_weight = nullptr;  // constant: W norm_bias + bias
  RowView gate, residual, result;
  NormKind norm = NormKind::kNone;
  Activation activation = Activation::kNone;
  float eps = 0.0f;
  float *mean = nullptr, *rstd = nullptr;
  void* product = nullptr;
  int column_tiles = 1;
};
static_assert(sizeof(FusionLaunch) <= 4096, "kernel parameters");

/// Elements of every stride, start and width so that rows can be copied in chunks of 16 bytes.
template <class T>
constexpr int64_t kChunkElements = 16 / static_cast<int64_t>(sizeof(T));

}  // namespace mmkernels

MMK_NAMESPACE_BEGIN

/// Where row `row` of a space stands in a tensor.
MMK_DEVICE int64_t row_offset(const RowSpace& space, const int64_t (&stride)[kMaxRowAxes], int64_t row) {
  int64_t offset = 0;
  uint32_t rest = static_cast<uint32_t>(row);
#pragma unroll 1
  for (int axis = space.axes - 1; axis > 0; --axis) {
    const uint32_t above = rest / space.size[axis];
    offset += static_cast<int64_t>(rest - above * space.size[axis]) * stride[axis];
    rest = above;
  }
  return space.axes > 0 ? offset + static_cast<int64_t>(rest) * stride[0] : 0;
}

/// Whether the rows of a tensor can be copied in whole chunks.
template <class T>
MMK_HOST_DEVICE inline bool whole_chunks(const RowSpace& space, const int64_t (&stride)[kMaxRowAxes], const void* data,
                                         int64_t width) {
  bool whole = reinterpret_cast<uint64_t>(data) % 16 == 0 && width % kChunkElements<T> == 0;
  for (int axis = 0; axis < space.axes; ++axis) whole = whole && stride[axis] % kChunkElements<T> == 0;
  return whole;
}

/// Whether columns [first, first + width) of a matrix can be.
template <class T>
MMK_HOST_DEVICE inline bool whole_columns(const void* data, int64_t stride, int64_t first, int64_t width) {
  return reinterpret_cast<uint64_t>(data) % 16 == 0 && (stride | first | width) % kChunkElements<T> == 0;
}

/// Element `index` of a tensor of any dtype, in fp32.
MMK_DEVICE float read_number(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kFloat32) return load(global<float>(data) + index);
  if (dtype == DType::kFloat16) return widen(load(global<Half>(data) + index));
  return widen(load(global<BFloat16>(data) + index));
}

MMK_DEVICE void write_number(void* data, DType dtype, int64_t index, float x) {
  if (dtype == DType::kFloat32) {
    store(global<float>(data) + index, x);
  } else if (dtype == DType::kFloat16) {
    store(global<Half>(data) + index, narrow<Half>(x));
  } else {
    store(global<BFloat16>(data) + index, narrow<BFloat16>(x));
  }
}

/// The sum over the lanes of a warp, in all of them.
MMK_DEVICE float warp_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

MMK_NAMESPACE_END
