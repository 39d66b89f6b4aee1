// The contrastive_loss kernels on numpy arrays: `contrastive_statistics(run, call, band_pairs)` and
// `contrastive_gradients(...)`, where `call` is a dict of what a ContrastiveProblem has; 16-bit arrays are uint16 with the
// name of their dtype.
#include <string>

#include "bind.h"
#include "cuda/launch/contrastive_plan.h"
#include "module.h"

namespace emulator {
namespace {

using namespace mmkernels;

int64_t stride_of(const py::array& array, int axis) {
  return array.shape(axis) == 1 ? 0 : array.strides(axis) / array.itemsize();
}

/// A ContrastiveInput over a call's arrays. What the call lacks, or has as None, is nullptr.
class ContrastiveArrays {
 public:
  ContrastiveInput input;

  explicit ContrastiveArrays(const py::dict& call) : call_(call), dtype_(dtype_of(call)) {
    ContrastiveProblem& p = input.problem;
    p.image = rows("image");
    p.text = rows("text");
    p.rows = array("image").shape(0);
    p.columns = array("text").shape(0);
    p.dim = array("image").shape(1);
    input.scale = read<float>("scale");
    input.bias = read<float>("bias");
    p.kind = py::cast<bool>(call["sigmoid"]) ? ContrastiveKind::kSigmoid : ContrastiveKind::kSoftmax;
    p.smoothing = py::cast<float>(call["smoothing"]);
    p.levels = py::cast<bool>(call["levels"]);
    if (has("matrix")) {
      p.positives.matrix = read<uint8_t>("matrix");
      p.positives.row_stride = stride_of(array("matrix"), 0);
      p.positives.column_stride = stride_of(array("matrix"), 1);
    }
    if (has("index")) {
      p.positives.index = read<int64_t>("index");
      p.positives.index_stride = stride_of(array("index"), 0);
    }
    p.row = statistics("row_statistics");
    p.column = statistics("column_statistics");
    p.row_side = side("row_side", p.kind);
    p.column_side = side("column_side", p.kind);
    p.row_loss = written<float>("row_loss");
    p.grad_image = gradient("grad_image");
    p.grad_text = gradient("grad_text");
    p.sums = written<double>("sums");
  }

  template <class F>
  void with_kernels(const F& f) const {
    return device::with_stored_type(
        dtype_, [&](auto type) { return f(device::ContrastiveKernels<typename decltype(type)::Type>{}); });
  }

  void* workspace(int64_t bytes) {
    const py::array_t<float> memory(bytes / 4 + 4);  // so that it is never nothing
    return arrays_.output("workspace", memory);
  }

 private:
  static DType dtype_of(const py::dict& call) {
    const auto name = py::cast<std::string>(call["dtype"]);
    return name == "float32" ? DType::kFloat32 : name == "float16" ? DType::kFloat16 : DType::kBFloat16;
  }
  bool has(const char* name) const { return call_.contains(name) && !call_[name].is_none(); }
  py::array array(const char* name) const { return py::cast<py::array>(call_[name]); }

  template <class T>
  const T* read(const char* name) {
    return has(name) ? static_cast<const T*>(arrays_.input(name, array(name))) : nullptr;
  }
  template <class T>
  T* written(const char* name) {
    return has(name) ? static_cast<T*>(arrays_.output(name, array(name))) : nullptr;
  }
  ContrastiveRows rows(const char* name) {
    return {arrays_.input(name, array(name)), dtype_, stride_of(array(name), 0)};
  }
  ContrastiveGradient gradient(const char* name) {
    if (!has(name)) return {};
    return {written<void>(name), array(name).itemsize() == 4 ? DType::kFloat32 : dtype_};
  }
  /// (3 or 4, n), as ContrastiveStatistics has them.
  ContrastiveStatistics statistics(const char* name) {
    if (!has(name)) return {};
    auto* numbers = written<float>(name);
    const int64_t n = array(name).shape(1);
    return {numbers, numbers + n, numbers + 2 * n, array(name).shape(0) == 4 ? numbers + 3 * n : nullptr};
  }
  /// (5, n), or of the sigmoid kind (n,).
  ContrastiveSide side(const char* name, ContrastiveKind kind) {
    ContrastiveSide s;
    if (!has(name)) return s;
    const auto* numbers = read<float>(name);
    if (kind == ContrastiveKind::kSigmoid) {
      s.grad = numbers;
      return s;
    }
    const int64_t n = array(name).shape(1);
    return {numbers, numbers + n, numbers + 2 * n, numbers + 3 * n, numbers + 4 * n};
  }

  py::dict call_;
  DType dtype_;
  DeviceArrays arrays_;
};

/// How a plan's kernels are launched here; counts the launches by name of the kernel.
auto launcher(Run& run, int64_t& launches) {
  return [&](auto kernel, int64_t blocks, const ContrastiveCall& call) {
    using Kernel = typename decltype(kernel)::Type;
    if (blocks == 0) return;
    ++launches;
    run.launch<Kernel>("contrastive_loss", call, blocks, Kernel::kSharedBytes, [&call] {
      Kernel own(call);
      own.run();
    });
  };
}

int64_t statistics(Run& run, const py::dict& call, int64_t band_pairs) {
  ContrastiveArrays arrays(call);
  int64_t launches = 0;
  const auto launch = launcher(run, launches);
  arrays.with_kernels([&](auto kernels) {
    using Kernels = decltype(kernels);
    const int64_t bytes = device::contrastive_statistics<Kernels>(arrays.input, nullptr, launch, band_pairs);
    device::contrastive_statistics<Kernels>(arrays.input, arrays.workspace(bytes), launch, band_pairs);
  });
  return launches;
}

int64_t gradients(Run& run, const py::dict& call, int64_t band_pairs) {
  ContrastiveArrays arrays(call);
  int64_t launches = 0;
  const auto launch = launcher(run, launches);
  const auto make = [&](auto kernels, auto sigmoid) {
    using Kernels = decltype(kernels);
    constexpr bool kSigmoid = decltype(sigmoid)::value;
    const int64_t bytes = device::contrastive_gradients<Kernels, kSigmoid>(arrays.input, nullptr, launch, band_pairs);
    device::contrastive_gradients<Kernels, kSigmoid>(arrays.input, arrays.workspace(bytes), launch, band_pairs);
  };
  arrays.with_kernels([&](auto kernels) {
    if (arrays.input.problem.kind == ContrastiveKind::kSigmoid) return make(kernels, std::true_type{});
    make(kernels, std::false_type{});
  });
  return launches;
}

}  // namespace

void bind_contrastive(py::module_& module) {
  const int64_t usual = device::kContrastiveBandPairs;
  module.def("contrastive_statistics", &statistics, py::arg("run"), py::arg("call"), py::arg("band_pairs") = usual,
             "Returns the number of launches.");
  module.def("contrastive_gradients", &gradients, py::arg("run"), py::arg("call"), py::arg("band_pairs") = usual,
             "Returns the number of launches.");
}

}  // namespace emulator
