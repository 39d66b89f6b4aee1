// One attention call.
#pragma once

#include "problem.h"

namespace mmkernels {

/// A (batch, head, row, feature) tensor with a unit last stride. A broadcast axis has stride 0.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t batch = 0, head = 0, row = 0;
};

/// Keys and values that stand at [offset, offset + length) of the concatenated key axis.
struct Segment {
  TensorView key, value;
  TensorView grad_key, grad_value;             // data == nullptr: not wanted
  int64_t key_batches = 1, value_batches = 1;  // of the gradients: 1 where the batch was broadcast
  int64_t length = 0, offset = 0;
};

/// On a GPU segments travel in the kernel's parameters.
constexpr int kMaxCudaSegments = 16;

/// Intervals local to each segment, and an optional dense part over the concatenated key axis.
struct MaskView {
  const int32_t *start = nullptr, *stop = nullptr;  // nullptr: every key
  int64_t start_stride[4] = {0, 0, 0, 0};           // segment, batch, head, row
  int64_t stop_stride[4] = {0, 0, 0, 0};
  const uint8_t* visible = nullptr;
  int64_t visible_stride[4] = {0, 0, 0, 0};  // batch, head, row, key
  int64_t visible_size[4] = {0, 0, 0, 0};    // varlen on a GPU: nobody has checked that the longest sequence fits
  const uint8_t* exact = nullptr;            // on a GPU: one flag there that says, if set, not to read `visible`
  bool unmask_empty_rows = false;
};

enum class BiasKind : int32_t { kNone, kDense, kRelative, kDecomposed };

/// kDense: part[0] is (batch, head, row, key). kRelative: part[0] is a table (head, key - row + zero).
/// kDecomposed: part[0] + part[1] are (batch, head, row, key / width) and (batch, head, row, key % width).
struct BiasView {
  BiasKind kind = BiasKind::kNone;
  const void* part[2] = {nullptr, nullptr};
  DType dtype[2] = {DType::kFloat32, DType::kFloat32};
  int64_t size[2][4] = {};
  int64_t stride[2][4] = {};
  void* grad[2] = {nullptr, nullptr};  // dense tensors of the shape `size` and of the same dtype
  int64_t zero = 0;                    // table index of key == row
};

struct Dropout {
  bool active = false;
  uint32_t key0 = 0, key1 = 0;     // the seed's halves
  const uint64_t* seed = nullptr;  // on a GPU: where it stands there, in place of the halves
  uint32_t threshold = 0;          // a pair is dropped iff its word < threshold
  float keep_scale = 1.0f;
  int64_t offset[4] = {0, 0, 0, 0};  // batch, head, query, key
};

struct AttentionProblem {
  int64_t batch = 0, heads_q = 0, heads_k = 0, len_q = 0, len_k = 0;
  int64_t dim_qk = 0, dim_v = 0;
  int64_t query_batches = 0;  // of grad_query: 1 where the batch was broadcast
  // varlen: sequence b holds rows cu_q[b] .. cu_q[b + 1] of tensors whose batch stride is 0
  const int32_t *cu_q = nullptr, *cu_k = nullptr;

  TensorView query, out;  // in the backward `out` is read
  const Segment* segments = nullptr;
  int num_segments = 0;
  float* lse = nullptr;  // (batch, head, row); forward: may be nullptr
  int64_t lse_stride[3] = {0, 0, 0};

  MaskView mask;
  BiasView bias;
  Dropout dropout;
  float scale = 1.0f;
  float softcap = 0.0f;  // 0: none

  // backward only
  TensorView grad_out, grad_query;
  const float* grad_lse = nullptr;
  int64_t grad_lse_stride[3] = {0, 0, 0};
};

}  // namespace mmkernels
