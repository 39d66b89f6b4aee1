// Tensors of the lowered call (docs/architecture.md) -> AttentionProblem.
//
// Shapes are checked against one another (a kernel must never read outside a tensor, whoever calls). Index values are
// checked only where the host may read them; on a GPU they stay unread, and the kernels clamp them.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "../core/attention_problem.h"
#include "tensors.h"

namespace mmkernels {

/// Strides of `t` for an index space of `sizes`: 0 along the axes that broadcast.
template <int n>
inline void broadcast_strides(const Tensor& t, const char* name, const int64_t (&sizes)[n], int64_t (&strides)[n]) {
  MMK_CHECK(t.dim() == n, name, " must have ", n, " dimensions, got ", t.dim());
  for (int axis = 0; axis < n; ++axis) {
    MMK_CHECK(t.size(axis) == sizes[axis] || t.size(axis) == 1, name, " has size ", t.size(axis), " on axis ", axis,
              ", expected 1 or ", sizes[axis]);
    strides[axis] = t.size(axis) == 1 ? 0 : t.stride(axis);
  }
}

/// View of a (B, H, L, D) or packed (T, H, D) tensor.
inline TensorView view_of(const Tensor& t, const char* name, bool packed, int64_t batch, int64_t heads, int64_t rows,
                          int64_t dim) {
  const int first = packed ? 0 : 1;
  MMK_CHECK(t.dim() == (packed ? 3 : 4), name, " must have ", packed ? 3 : 4, " dimensions, got ", t.dim());
  MMK_CHECK(packed || t.size(0) == batch || t.size(0) == 1, name, " has batch ", t.size(0), ", expected 1 or ", batch);
  const int head_axis = packed ? 1 : 1, row_axis = packed ? 0 : 2, dim_axis = first + 2;
  MMK_CHECK(t.size(head_axis) == heads && t.size(row_axis) == rows && t.size(dim_axis) == dim, name,
            " has (heads, rows, dim) (", t.size(head_axis), ", ", t.size(row_axis), ", ", t.size(dim_axis),
            "), expected (", heads, ", ", rows, ", ", dim, ")");
  MMK_CHECK(dim == 1 || t.numel() == 0 || t.stride(dim_axis) == 1, name, " must have a unit last stride, got ",
            t.stride(dim_axis));
  TensorView view;
  view.data = t.mutable_data_ptr();
  view.dtype = dtype_of(t, name);
  view.batch = packed || t.size(0) == 1 ? 0 : t.stride(0);
  view.head = t.stride(head_axis);
  view.row = t.stride(row_axis);
  return view;
}

inline const int32_t* cu_seqlens_of(const Tensor& cu, const char* name) {
  MMK_CHECK(cu.scalar_type() == ScalarType::Int && cu.dim() == 1 && cu.size(0) >= 1 && cu.is_contiguous(), name,
            " must be a contiguous int32 vector with at least one element");
  return static_cast<const int32_t*>(cu.const_data_ptr());
}

inline void check_cu_seqlens(const Tensor& cu, const char* name, int64_t total) {
  const int32_t* values = static_cast<const int32_t*>(cu.const_data_ptr());
  const int64_t n = cu.size(0) - 1;
  MMK_CHECK(values[0] == 0, name, "[0] is ", values[0], ", expected 0");
  for (int64_t i = 0; i < n; ++i) {
    MMK_CHECK(values[i] <= values[i + 1], name, " must not decrease, got ", values[i], " before ", values[i + 1],
              " at index ", i);
  }
  MMK_CHECK(values[n] == total, name, "[-1] is ", values[n], ", expected the number of packed rows ", total);
}

inline void check_intervals(const Tensor& t, const char* name, const std::vector<int64_t>& lengths) {
  const int32_t* values = static_cast<const int32_t*>(t.const_data_ptr());
  for (int64_t s = 0; s < t.size(0); ++s) {
    int64_t length = lengths[s];
    if (t.size(0) == 1) {
      for (const int64_t other : lengths) length = other < length ? other : length;
    }
    for (int64_t b = 0; b < t.size(1); ++b) {
      for (int64_t h = 0; h < t.size(2); ++h) {
        const int32_t* row = values + s * t.stride(0) + b * t.stride(1) + h * t.stride(2);
        for (int64_t i = 0; i < t.size(3); ++i) {
          const int32_t value = row[i * t.stride(3)];
          MMK_CHECK(value >= 0 && value <= length, "mask interval ", name, " is ", value,
                    " at (segment, batch, head, row) (", s, ", ", b, ", ", h, ", ", i, "), expected 0 to ", length,
                    " (the number of keys)");
        }
      }
    }
  }
}

/// The lowered call (docs/architecture.md), as the dispatcher hands it over.
struct Call {
  const Tensor& query;
  const std::vector<Tensor>&keys, &values;
  const OptionalTensor &start, &stop, &visible, &interval_exact;
  const std::vector<Tensor>& bias;
  int64_t bias_kind, relative_zero;
  const OptionalTensor &seed, &cu_seqlens_q, &cu_seqlens_k;
  double scale, softcap, dropout_p;
  bool unmask_empty_rows;
  const std::vector<int64_t>& offsets;
};

/// Whether the host may read the tensors that hold indices, flags and seeds.
enum class Values { kOnHost, kOnDevice };

/// AttentionProblem plus the memory its pointers need.
class Lowered {
 public:
  AttentionProblem problem;
  std::vector<Segment> segments;

  Lowered(const Call& c, Values values) : values_(values) {
    AttentionProblem& p = problem;
    const bool packed = c.cu_seqlens_q.has_value();
    MMK_CHECK(packed == c.cu_seqlens_k.has_value(), "cu_seqlens_q and cu_seqlens_k come together");
    MMK_CHECK(c.query.dim() == (packed ? 3 : 4), "query must have ", packed ? 3 : 4, " dimensions, got ",
              c.query.dim());
    MMK_CHECK(!c.keys.empty() && c.keys.size() == c.values.size(), "keys and values must be lists of equal length");
    MMK_CHECK(!packed || c.keys.size() == 1, "packed sequences take one key and one value tensor");
    const int row_axis = packed ? 0 : 2, head_axis = 1, dim_axis = packed ? 2 : 3;
    p.heads_q = c.query.size(head_axis);
    p.len_q = c.query.size(row_axis);
    p.dim_qk = c.query.size(dim_axis);
    p.heads_k = c.keys[0].size(head_axis);
    p.dim_v = c.values[0].size(dim_axis);
    MMK_CHECK(p.dim_qk >= 1 && p.dim_qk <= 512 && p.dim_v >= 1 && p.dim_v <= 512, "head dims must be 1 to 512, got ",
              p.dim_qk, " and ", p.dim_v);
    MMK_CHECK(p.heads_k > 0 && p.heads_q % p.heads_k == 0, "query heads ", p.heads_q,
              " must be a multiple of key heads ", p.heads_k);
    p.batch = c.query.size(0);
    if (packed) {
      p.batch = c.cu_seqlens_q->size(0) - 1;
      MMK_CHECK(c.cu_seqlens_k->size(0) - 1 == p.batch,
                "cu_seqlens_q and cu_seqlens_k must name equally many sequences");
      p.cu_q = cu_seqlens_of(*c.cu_seqlens_q, "cu_seqlens_q");
      p.cu_k = cu_seqlens_of(*c.cu_seqlens_k, "cu_seqlens_k");
      if (values_ == Values::kOnHost) {
        check_cu_seqlens(*c.cu_seqlens_q, "cu_seqlens_q", p.len_q);
        check_cu_seqlens(*c.cu_seqlens_k, "cu_seqlens_k", c.keys[0].size(0));
      }
    } else {
      for (size_t s = 0; s < c.keys.size(); ++s) {
        if (c.keys[s].size(0) != 1) p.batch = c.keys[s].size(0);
        if (c.values[s].size(0) != 1) p.batch = c.values[s].size(0);
      }
    }
    p.query = view_of(c.query, "query", packed, p.batch, p.heads_q, p.len_q, p.dim_qk);
    p.query_batches = packed ? 1 : c.query.size(0);
    for (size_t s = 0; s < c.keys.size(); ++s) {
      Segment segment;
      segment.length = c.keys[s].size(row_axis);
      segment.offset = p.len_k;
      segment.key = view_of(c.keys[s], "key", packed, p.batch, p.heads_k, segment.length, p.dim_qk);
      segment.value = view_of(c.values[s], "value", packed, p.batch, p.heads_k, segment.length, p.dim_v);
      MMK_CHECK(segment.key.dtype == p.query.dtype && segment.value.dtype == p.query.dtype,
                "query, key and value must share a dtype");
      segment.key_batches = packed ? 1 : c.keys[s].size(0);
      segment.value_batches = packed ? 1 : c.values[s].size(0);
      segments.push_back(segment);
      p.len_k += segment.length;
    }
    p.segments = segments.data();
    p.num_segments = static_cast<int>(segments.size());
    p.scale = static_cast<float>(c.scale);
    p.softcap = static_cast<float>(c.softcap);
    lower_mask(c, packed);
    lower_bias(c, packed);
    lower_dropout(c);
  }

  void outputs(const Tensor& out, const OptionalTensor& lse) {
    AttentionProblem& p = problem;
    const bool packed = p.cu_q != nullptr;
    p.out = view_of(out, "out", packed, p.batch, p.heads_q, p.len_q, p.dim_v);
    MMK_CHECK(packed || out.size(0) == p.batch, "out has batch ", out.size(0), ", expected ", p.batch);
    if (lse) p.lse = row_vector(*lse, "lse", p.lse_stride);
  }

  /// A float32 (B, H, L) or packed (H, T) tensor.
  float* row_vector(const Tensor& t, const char* name, int64_t (&stride)[3]) const {
    const AttentionProblem& p = problem;
    const int skip = p.cu_q ? 1 : 0;
    MMK_CHECK(t.dim() == 3 - skip && t.scalar_type() == ScalarType::Float, name, " must be float32 with ", 3 - skip,
              " dimensions");
    MMK_CHECK(t.size(1 - skip) == p.heads_q && t.size(2 - skip) == p.len_q && (skip || t.size(0) == p.batch), name,
              " does not fit the query");
    stride[0] = skip ? 0 : t.stride(0);
    stride[1] = t.stride(1 - skip);
    stride[2] = t.stride(2 - skip);
    return static_cast<float*>(t.mutable_data_ptr());
  }

 private:
  Values values_;

  /// Tokens of the longest sequence. On a device nobody knows them here: 0, which every shape is enough for.
  int64_t longest(const int32_t* cu) const {
    int64_t most = 0;
    if (values_ == Values::kOnDevice) return most;
    for (int64_t b = 0; b < problem.batch; ++b) most = std::max<int64_t>(most, cu[b + 1] - cu[b]);
    return most;
  }

  void lower_mask(const Call& c, bool packed) {
    AttentionProblem& p = problem;
    MaskView& m = p.mask;
    m.unmask_empty_rows = c.unmask_empty_rows;
    bool exact = false;
    if (c.interval_exact) {
      MMK_CHECK(c.interval_exact->scalar_type() == ScalarType::Bool && c.interval_exact->numel() == 1,
                "interval_exact must be one bool");
      m.exact = static_cast<const uint8_t*>(c.interval_exact->const_data_ptr());
      exact = values_ == Values::kOnHost && *m.exact;
    }
    if (c.start) {
      MMK_CHECK(c.stop.has_value(), "start and stop come together");
      const int64_t sizes[4] = {p.num_segments, packed ? 1 : p.batch, p.heads_q, p.len_q};
      std::vector<int64_t> lengths;
      for (const Segment& s : segments) lengths.push_back(s.length);
      const Tensor* ends[2] = {&*c.start, &*c.stop};
      int64_t (*strides[2])[4] = {&m.start_stride, &m.stop_stride};
      for (int i = 0; i < 2; ++i) {
        MMK_CHECK(ends[i]->scalar_type() == ScalarType::Int, "start and stop must be int32");
        broadcast_strides(*ends[i], i ? "stop" : "start", sizes, *strides[i]);
        if (values_ == Values::kOnHost) check_intervals(*ends[i], i ? "stop" : "start", lengths);
      }
      m.start = static_cast<const int32_t*>(c.start->const_data_ptr());
      m.stop = static_cast<const int32_t*>(c.stop->const_data_ptr());
    }
    if (c.visible && !exact) {
      MMK_CHECK(c.visible->scalar_type() == ScalarType::Bool, "visible must be bool");
      if (packed) {
        check_packed(*c.visible, "mask", m.visible_stride);
      } else {
        const int64_t sizes[4] = {p.batch, p.heads_q, p.len_q, p.len_k};
        broadcast_strides(*c.visible, "mask", sizes, m.visible_stride);
      }
      for (int axis = 0; axis < 4; ++axis) m.visible_size[axis] = c.visible->size(axis);
      m.visible = static_cast<const uint8_t*>(c.visible->const_data_ptr());
    }
  }

  /// (sequence, head, row, key) in local indices: rows and keys at least as many as the longest sequence's.
  void check_packed(const Tensor& t, const char* name, int64_t (&strides)[4]) const {
    const AttentionProblem& p = problem;
    MMK_CHECK(t.dim() == 4, name, " must have 4 dimensions, got ", t.dim());
    const int64_t least[4] = {p.batch, p.heads_q, longest(p.cu_q), longest(p.cu_k)};
    for (int axis = 0; axis < 4; ++axis) {
      const bool fits = axis < 2 ? t.size(axis) == least[axis] : t.size(axis) >= least[axis];
      MMK_CHECK(t.size(axis) == 1 || fits, name, " has size ", t.size(axis), " on axis ", axis, ", expected 1 or ",
                axis < 2 ? "" : "at least ", least[axis]);
      strides[axis] = t.size(axis) == 1 ? 0 : t.stride(axis);
    }
  }

  void lower_bias(const Call& c, bool packed) {
    AttentionProblem& p = problem;
    BiasView& b = p.bias;
    MMK_CHECK(c.bias_kind >= 0 && c.bias_kind <= 3, "bias_kind is ", c.bias_kind, ", expected 0 to 3");
    b.kind = static_cast<BiasKind>(c.bias_kind);
    b.zero = c.relative_zero;
    const size_t parts = b.kind == BiasKind::kNone ? 0 : b.kind == BiasKind::kDecomposed ? 2 : 1;
    MMK_CHECK(c.bias.size() == parts, "bias has ", c.bias.size(), " tensors, expected ", parts);
    for (size_t i = 0; i < parts; ++i) {
      const Tensor& t = c.bias[i];
      b.part[i] = t.const_data_ptr();
      b.dtype[i] = dtype_of(t, "bias");
      if (b.kind == BiasKind::kRelative) {
        MMK_CHECK(t.dim() == 2 && (t.size(0) == 1 || t.size(0) == p.heads_q),
                  "the table of a RelativeBias must be (heads, n)");
        const int64_t rows = packed ? longest(p.cu_q) : p.len_q, keys = packed ? longest(p.cu_k) : p.len_k;
        MMK_CHECK(b.zero >= rows - 1 && b.zero + keys <= t.size(1), "the table of a RelativeBias has ", t.size(1),
                  " entries with key == query at ", b.zero, ", too few for ", rows, " queries and ", keys, " keys");
        MMK_CHECK(t.numel() <= 1 || t.size(1) == 1 || t.stride(1) == 1,
                  "the table of a RelativeBias must have a unit last stride");
        const int64_t size[4] = {1, t.size(0), 1, t.size(1)}, stride[4] = {0, t.size(0) == 1 ? 0 : t.stride(0), 0, 1};
        std::copy(size, size + 4, b.size[i]);
        std::copy(stride, stride + 4, b.stride[i]);
        continue;
      }
      MMK_CHECK(t.dim() == 4, "bias must have 4 dimensions, got ", t.dim());
      for (int axis = 0; axis < 4; ++axis) b.size[i][axis] = t.size(axis);
      if (packed && b.kind == BiasKind::kDense) {
        check_packed(t, "bias", b.stride[i]);
      } else {
        const int64_t rows = packed ? (t.size(2) >= longest(p.cu_q) ? t.size(2) : longest(p.cu_q)) : p.len_q;
        const int64_t sizes[4] = {p.batch, p.heads_q, rows, b.kind == BiasKind::kDense ? p.len_k : t.size(3)};
        broadcast_strides(t, "bias", sizes, b.stride[i]);
      }
    }
    if (b.kind == BiasKind::kDecomposed) {
      const int64_t keys = packed ? longest(p.cu_k) : p.len_k, grid = b.size[0][3] * b.size[1][3];
      MMK_CHECK(packed ? grid >= keys : grid == keys, "a DecomposedBias of ", b.size[0][3], " x ", b.size[1][3],
                " does not fit ", keys, " keys");
    }
  }

  void lower_dropout(const Call& c) {
    Dropout& d = problem.dropout;
    MMK_CHECK(c.dropout_p >= 0.0 && c.dropout_p <= 1.0, "dropout_p is ", c.dropout_p, ", expected 0 to 1");
    d.active = c.dropout_p > 0.0;
    if (!d.active) return;
    MMK_CHECK(c.seed && c.seed->numel() == 1 && c.seed->scalar_type() == ScalarType::Long,
              "dropout needs an int64 seed");
    MMK_CHECK(c.offsets.size() == 4, "offsets must hold batch, head, query and key");
    d.seed = static_cast<const uint64_t*>(c.seed->const_data_ptr());
    if (values_ == Values::kOnHost) {
      d.key0 = static_cast<uint32_t>(*d.seed);
      d.key1 = static_cast<uint32_t>(*d.seed >> 32);
    }
    const double threshold = std::nearbyint(c.dropout_p * 4294967296.0);
    // 2^32 drops every pair: no 32-bit threshold says that, a zero scale does
    const bool drops_all = threshold >= 4294967296.0;
    d.threshold = drops_all ? 0xFFFFFFFFu : static_cast<uint32_t>(threshold);
    d.keep_scale = drops_all ? 0.0f : static_cast<float>(1.0 / (1.0 - c.dropout_p));
    for (int i = 0; i < 4; ++i) {
      MMK_CHECK(c.offsets[i] >= 0, "dropout offsets must not be negative, got ", c.offsets[i]);
      d.offset[i] = c.offsets[i];
    }
  }
};

}  // namespace mmkernels
