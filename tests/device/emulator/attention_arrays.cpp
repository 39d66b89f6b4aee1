// What a lowered call (docs/architecture.md) is as a dict: tensors as arrays of their strides, 16-bit ones as uint16 with
// the name of their dtype.
#include "attention.h"

#include <string>
#include <vector>

namespace emulator {

using namespace mmkernels;

DType dtype_named(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "float16") return DType::kFloat16;
  throw py::value_error("dtype is " + name + ", expected float32, bfloat16 or float16");
}

int64_t stride_of(const py::array& array, int axis) {
  return array.shape(axis) == 1 ? 0 : array.strides(axis) / array.itemsize();
}

/// (B, H, L, D), or packed (T, H, D).
TensorView AttentionArrays::view(const char* name, const py::array& array, bool written) {
  TensorView view;
  view.data = written ? arrays_.output(name, array) : const_cast<void*>(arrays_.input(name, array));
  view.dtype = dtype_;
  const bool packed = array.ndim() == 3;
  view.batch = packed ? 0 : stride_of(array, 0);
  view.head = stride_of(array, 1);
  view.row = stride_of(array, packed ? 0 : 2);
  return view;
}

AttentionArrays::AttentionArrays(const py::dict& call) : dtype_(dtype_named(py::cast<std::string>(call["dtype"]))) {
  AttentionProblem& p = problem;
  const auto query = py::cast<py::array>(call["query"]);
  const auto keys = py::cast<std::vector<py::array>>(call["keys"]),
             values = py::cast<std::vector<py::array>>(call["values"]);
  const bool packed = query.ndim() == 3;
  const int rows = packed ? 0 : 2, last = packed ? 2 : 3;
  p.heads_q = query.shape(1);
  p.len_q = query.shape(rows);
  p.dim_qk = query.shape(last);
  p.heads_k = keys.at(0).shape(1);
  p.dim_v = values.at(0).shape(last);
  p.query = view("query", query, false);
  p.query_batches = packed ? 1 : query.shape(0);
  p.batch = py::cast<int64_t>(call["batch"]);
  for (size_t s = 0; s < keys.size(); ++s) {
    Segment segment;
    segment.length = keys[s].shape(rows);
    segment.offset = p.len_k;
    segment.key = view("key", keys[s], false);
    segment.value = view("value", values[s], false);
    segment.key_batches = packed ? 1 : keys[s].shape(0);
    segment.value_batches = packed ? 1 : values[s].shape(0);
    segments.push_back(segment);
    p.len_k += segment.length;
  }
  p.segments = segments.data();
  p.num_segments = static_cast<int>(segments.size());
  p.scale = py::cast<float>(call["scale"]);
  p.softcap = py::cast<float>(call["softcap"]);
  if (packed) {
    p.cu_q = static_cast<const int32_t*>(arrays_.input("cu_seqlens_q", py::cast<py::array>(call["cu_seqlens_q"])));
    p.cu_k = static_cast<const int32_t*>(arrays_.input("cu_seqlens_k", py::cast<py::array>(call["cu_seqlens_k"])));
  }
  mask(call);
  bias(call);
  if (const double dropped = py::cast<double>(call["dropout_p"]); dropped > 0.0) {
    Dropout& d = p.dropout;
    d.active = true;
    d.seed = static_cast<const uint64_t*>(arrays_.input("seed", py::cast<py::array>(call["seed"])));
    d.threshold = static_cast<uint32_t>(dropped * 4294967296.0 + 0.5);
    d.keep_scale = static_cast<float>(1.0 / (1.0 - dropped));
    const auto offsets = py::cast<std::vector<int64_t>>(call["offsets"]);
    for (int i = 0; i < 4; ++i) d.offset[i] = offsets.at(i);
  }
}

void AttentionArrays::mask(const py::dict& call) {
  MaskView& m = problem.mask;
  const auto strides = [](const py::array& array, int64_t (&stride)[4]) {
    for (int axis = 0; axis < 4; ++axis) stride[axis] = stride_of(array, axis);
  };
  if (!call["start"].is_none()) {
    const auto start = py::cast<py::array>(call["start"]), stop = py::cast<py::array>(call["stop"]);
    m.start = static_cast<const int32_t*>(arrays_.input("start", start));
    m.stop = static_cast<const int32_t*>(arrays_.input("stop", stop));
    strides(start, m.start_stride);
    strides(stop, m.stop_stride);
  }
  if (call["visible"].is_none()) return;
  const auto visible = py::cast<py::array>(call["visible"]);
  m.visible = static_cast<const uint8_t*>(arrays_.input("visible", visible));
  strides(visible, m.visible_stride);
  for (int axis = 0; axis < 4; ++axis) m.visible_size[axis] = visible.shape(axis);
  if (!call["interval_exact"].is_none())
    m.exact = static_cast<const uint8_t*>(arrays_.input("interval_exact", py::cast<py::array>(call["interval_exact"])));
}

void AttentionArrays::bias(const py::dict& call) {
  BiasView& b = problem.bias;
  b.kind = static_cast<BiasKind>(py::cast<int>(call["bias_kind"]));
  b.zero = py::cast<int64_t>(call["relative_zero"]);
  const auto parts = py::cast<std::vector<py::array>>(call["bias"]);
  const auto dtypes = py::cast<std::vector<std::string>>(call["bias_dtypes"]);
  for (size_t i = 0; i < parts.size(); ++i) {
    b.part[i] = arrays_.input("bias", parts[i]);
    b.dtype[i] = dtype_named(dtypes.at(i));
    const bool table = b.kind == BiasKind::kRelative;
    for (int axis = 0; axis < 4; ++axis) {
      const int from = table ? axis / 2 : axis;  // (1, heads, 1, entries)
      b.size[i][axis] = table && axis % 2 == 0 ? 1 : parts[i].shape(from);
      b.stride[i][axis] = table && axis % 2 == 0 ? 0 : stride_of(parts[i], from);
    }
  }
}

float* AttentionArrays::row_vector(const char* name, const py::array& array, int64_t (&stride)[3], bool written) {
  const int skip = array.ndim() == 2 ? 1 : 0;
  for (int axis = skip; axis < 3; ++axis) stride[axis] = stride_of(array, axis - skip);
  void* data = written ? arrays_.output(name, array) : const_cast<void*>(arrays_.input(name, array));
  return static_cast<float*>(data);
}

}  // namespace emulator
