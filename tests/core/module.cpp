// mmk_core_tests: csrc/core, and the vector functions of every instruction set, on numpy arrays. For tests only.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "core/mask.h"
#include "core/philox.h"
#include "core/softmax.h"
#include "lanes.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

constexpr py::ssize_t kWidest = 16;

// ---- csrc/core, scalar ----

std::string classify_tile(const Array<int32_t>& start, const Array<int32_t>& stop, int32_t begin, int32_t end) {
  if (start.size() != stop.size()) throw py::value_error("start and stop differ in length");
  const auto result =
      mmkernels::baseline::classify_tile(start.data(), stop.data(), static_cast<int>(start.size()), begin, end);
  using mmkernels::baseline::TileClass;
  return result == TileClass::kSkip ? "skip" : result == TileClass::kFull ? "full" : "partial";
}

std::vector<uint32_t> philox4x32(const std::vector<uint32_t>& counter, uint32_t key0, uint32_t key1) {
  mmkernels::baseline::PhiloxBlock<uint32_t> block{{counter.at(0), counter.at(1), counter.at(2), counter.at(3)}};
  block = mmkernels::baseline::philox4x32(block, key0, key1);
  return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

std::vector<float> merge_factors(float max_a, float max_b) {
  const auto m = mmkernels::baseline::merge_factors(max_a, max_b);
  return {m.row_max, m.factor_a, m.factor_b};
}

/// An error on purpose where index is not below size: what the sanitizers must see.
int read_heap(int size, int index) {
  std::vector<int> values(size, 7);
  return *(values.data() + index);
}

// ---- vectors ----

/// `function` over an array of any length, padded with copies of its last element.
template <class To, class From>
py::array_t<To> map(void (*function)(const From*, To*, int64_t), const Array<From>& x) {
  const py::ssize_t count = x.size(), padded = (count + kWidest - 1) / kWidest * kWidest;
  std::vector<From> from(x.data(), x.data() + count);
  from.resize(padded, count ? from.back() : From());
  std::vector<To> to(padded);
  function(from.data(), to.data(), padded);
  return py::array_t<To>(count, to.data());
}

struct Lanes {
  const mmkernels::LaneFunctions* functions;

  py::array_t<uint32_t> philox(const Array<uint32_t>& counter, uint32_t key0, uint32_t key1) const {
    check(counter.ndim() == 2 && counter.shape(0) == 4, "counter must be (4, count)");
    check(counter.shape(1) % kWidest == 0, "count must be a multiple of 16");
    py::array_t<uint32_t> words({counter.shape(0), counter.shape(1)});
    functions->philox(counter.data(), key0, key1, words.mutable_data(), counter.shape(1));
    return words;
  }

  py::array_t<uint32_t> pair(const Array<float>& high, const Array<float>& low) const {
    check(high.size() == low.size() && high.size() % kWidest == 0, "sizes must be equal, a multiple of 16");
    py::array_t<uint32_t> pairs(high.size());
    functions->pair(high.data(), low.data(), pairs.mutable_data(), high.size());
    return pairs;
  }

  py::array_t<uint32_t> pair_halves(const Array<uint16_t>& high, const Array<uint16_t>& low) const {
    check(high.size() == low.size() && high.size() % kWidest == 0, "sizes must be equal, a multiple of 16");
    py::array_t<uint32_t> pairs(high.size());
    functions->pair_halves(high.data(), low.data(), pairs.mutable_data(), high.size());
    return pairs;
  }

  py::array_t<uint32_t> pair_neighbours(const Array<float>& x) const {
    check(x.size() % (2 * kWidest) == 0, "size must be a multiple of 32");
    py::array_t<uint32_t> pairs(x.size() / 2);
    functions->pair_neighbours(x.data(), pairs.mutable_data(), x.size());
    return pairs;
  }

  py::array_t<float> multiply_add_pairs(const Array<uint32_t>& a, const Array<uint32_t>& b,
                                        const Array<float>& c) const {
    check(a.size() == b.size() && a.size() == c.size() && a.size() % kWidest == 0,
          "sizes must be equal, a multiple of 16");
    py::array_t<float> result(c.size());
    functions->multiply_add_pairs(a.data(), b.data(), c.data(), result.mutable_data(), c.size());
    return result;
  }

  py::tuple merge(const Array<float>& max_a, const Array<float>& max_b) const {
    check(max_a.size() == max_b.size() && max_a.size() % kWidest == 0, "sizes must be equal, a multiple of 16");
    py::array_t<float> row_max(max_a.size()), factor_a(max_a.size()), factor_b(max_a.size());
    functions->merge(max_a.data(), max_b.data(), row_max.mutable_data(), factor_a.mutable_data(),
                     factor_b.mutable_data(), max_a.size());
    return py::make_tuple(row_max, factor_a, factor_b);
  }

  py::array_t<float> transpose(const Array<float>& x) const {
    check(x.size() == functions->lanes * functions->lanes, "expected (lanes, lanes)");
    py::array_t<float> result({x.shape(0), x.shape(1)});
    functions->transpose(x.data(), result.mutable_data());
    return result;
  }

  py::array_t<float> gemm(const Array<float>& a, bool transposed, const Array<float>& b, const Array<float>& c,
                          const Array<float>& factor, bool factor_of_row) const {
    const py::ssize_t rows = a.shape(transposed ? 1 : 0), depth = a.shape(transposed ? 0 : 1), columns = b.shape(1);
    check(b.shape(0) == depth && columns % functions->lanes == 0, "b must be (depth, multiple of lanes)");
    check(c.shape(0) == rows && c.shape(1) == columns, "c must be (rows, columns)");
    check(factor.size() == (factor_of_row ? rows : columns), "factor must have one entry a row, or one a column");
    py::array_t<float> result({rows, columns});
    std::copy(c.data(), c.data() + c.size(), result.mutable_data());
    functions->gemm(rows, static_cast<int>(columns / functions->lanes), a.data(), transposed, b.data(), depth,
                    result.mutable_data(), factor.data(), factor_of_row);
    return result;
  }

  float horizontal_maximum(const Array<float>& x) const {
    check(x.size() == functions->lanes, "expected one vector");
    return functions->horizontal_maximum(x.data());
  }

  float sum_in_four_chains(const Array<float>& x) const {
    check(x.size() % 4 == 0, "size must be a multiple of 4");
    return functions->sum_in_four_chains(x.data(), x.size());
  }

 private:
  static void check(bool condition, const char* text) {
    if (!condition) throw py::value_error(text);
  }
};

/// Tables of the instruction sets that this processor runs.
py::dict lanes() {
  py::dict result;
  result["baseline"] = Lanes{&mmkernels::baseline::kLaneFunctions};
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2) result["avx2"] = Lanes{&mmkernels::avx2::kLaneFunctions};
  if (avx2) result["vec16"] = Lanes{&mmkernels::vec16::kLaneFunctions};
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    result["avx512"] = Lanes{&mmkernels::avx512::kLaneFunctions};
    if (__builtin_cpu_supports("avx512bf16")) result["avx512bf16"] = Lanes{&mmkernels::avx512bf16::kLaneFunctions};
  }
#else
  result["vec16"] = Lanes{&mmkernels::vec16::kLaneFunctions};
#endif
  return result;
}

}  // namespace

PYBIND11_MODULE(mmk_core_tests, m) {
  m.def("classify_tile", &classify_tile, py::arg("start"), py::arg("stop"), py::arg("begin"), py::arg("end"));
  m.def("clamp_index", &mmkernels::baseline::clamp_index, py::arg("index"), py::arg("length"));
  m.def("philox4x32", &philox4x32, py::arg("counter"), py::arg("key0"), py::arg("key1"));
  m.def("merge_factors", &merge_factors, py::arg("max_a"), py::arg("max_b"));
  m.def("safe_shift", &mmkernels::baseline::safe_shift<float>, py::arg("row_max"));
  m.def("read_heap", &read_heap, py::arg("size"), py::arg("index"));
  m.def("lanes", &lanes);
  py::class_<Lanes>(m, "Lanes")
      .def_property_readonly("lanes", [](const Lanes& self) { return self.functions->lanes; })
      .def("exponential", [](const Lanes& l, const Array<float>& x) { return map(l.functions->exponential, x); })
      .def("softmax_weight", [](const Lanes& l, const Array<float>& x) { return map(l.functions->softmax_weight, x); })
      .def("hyperbolic_tangent",
           [](const Lanes& l, const Array<float>& x) { return map(l.functions->hyperbolic_tangent, x); })
      .def("widen_bfloat16",
           [](const Lanes& l, const Array<uint16_t>& x) { return map(l.functions->widen_bfloat16, x); })
      .def("widen_float16", [](const Lanes& l, const Array<uint16_t>& x) { return map(l.functions->widen_float16, x); })
      .def("narrow_bfloat16",
           [](const Lanes& l, const Array<float>& x) { return map(l.functions->narrow_bfloat16, x); })
      .def("narrow_float16", [](const Lanes& l, const Array<float>& x) { return map(l.functions->narrow_float16, x); })
      .def("pair", &Lanes::pair)
      .def("pair_halves", &Lanes::pair_halves)
      .def("pair_neighbours", &Lanes::pair_neighbours)
      .def("multiply_add_pairs", &Lanes::multiply_add_pairs)
      .def("philox", &Lanes::philox)
      .def("merge", &Lanes::merge)
      .def("transpose", &Lanes::transpose)
      .def("gemm", &Lanes::gemm)
      .def("horizontal_maximum", &Lanes::horizontal_maximum)
      .def("sum_in_four_chains", &Lanes::sum_in_four_chains);
}
