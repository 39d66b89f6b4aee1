// One small kernel for each primitive of ptx/, on one warp: lane i takes element i and gives element i.
#include <ptx/convert.h>
#include <ptx/math.h>
#include <ptx/matrix.h>
#include <ptx/memory.h>
#include <ptx/sync.h>

#include <string>

#include "bind.h"
#include "module.h"

namespace emulator {
namespace {

using namespace mmkernels;
using namespace mmkernels::device;

template <class To, class From, class Function>
void map(Run& run, const py::array& from, const py::array& to, Function function) {
  if (from.itemsize() != sizeof(From) || to.itemsize() != sizeof(To) || from.size() != to.size() || from.size() % 32) {
    throw py::value_error("arrays of equal length, a multiple of 32, and of the type's size");
  }
  DeviceArrays arrays;
  const auto in = global<From>(arrays.input("from", from));
  const auto out = global<To>(arrays.output("to", to));
  run.launch({static_cast<int>(from.size() / 32)}, 32, 0, [&] {
    const int index = block_index_x() * 32 + thread_index();
    store(out + index, function(load(in + index)));
  });
}

template <class To, class From, class Function>
void bind_map(py::module_& module, const char* name, Function function) {
  module.def(name, [function](Run& run, const py::array& from, const py::array& to) {
    map<To, From>(run, from, to, function);
  });
}

template <class From, class Function>
void bind_pair(py::module_& module, const char* name, Function function) {
  module.def(name, [function](Run& run, const py::array& a, const py::array& b, const py::array& to) {
    DeviceArrays arrays;
    const auto first = global<From>(arrays.input("a", a)), second = global<From>(arrays.input("b", b));
    const auto out = global<uint32_t>(arrays.output("to", to));
    run.launch({static_cast<int>(a.size() / 32)}, 32, 0, [&] {
      const int index = block_index_x() * 32 + thread_index();
      store(out + index, bits_as<uint32_t>(function(load(first + index), load(second + index))));
    });
  });
}

// ---- shared memory ----

/// Every lane stores its T and loads that of lane 31 - lane.
template <class T>
void through_shared(Run& run, const py::array& from, const py::array& to) {
  constexpr int words = sizeof(T) < 4 ? 1 : sizeof(T) / 4;
  using Word = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
  DeviceArrays arrays;
  const auto in = global<Word>(arrays.input("from", from));
  const auto out = global<Word>(arrays.output("to", to));
  run.launch({}, 32, 32 * sizeof(T), [&] {
    const Shared memory = shared_memory();
    const int lane = lane_index();
    Word mine[words];
    for (int i = 0; i < words; ++i) mine[i] = load(in + (lane * words + i));
    T value;
    std::memcpy(&value, mine, sizeof(T));
    store(memory + lane * sizeof(T), value);
    sync_warp();
    value = load<T>(memory + (31 - lane) * sizeof(T));
    std::memcpy(mine, &value, sizeof(T));
    for (int i = 0; i < words; ++i) store(out + (lane * words + i), mine[i]);
  });
}

/// 16 bytes a lane, from global through shared memory; zeros where `inside` is 0.
void copy16(Run& run, const py::array& from, const py::array& inside, const py::array& to) {
  DeviceArrays arrays;
  const auto in = global<uint32_t>(arrays.input("from", from));
  const auto flags = global<uint8_t>(arrays.input("inside", inside));
  const auto out = global<uint32_t>(arrays.output("to", to));
  run.launch({}, 32, 512, [&] {
    const int lane = lane_index();
    copy16_async(shared_memory() + 16 * lane, in + 4 * lane, load(flags + lane) != 0);
    commit_copies();
    wait_copies<0>();
    store16(out + 4 * lane, load<Words<4>>(shared_memory() + 16 * lane));
  });
}

void move16(Run& run, const py::array& from, const py::array& to) {
  DeviceArrays arrays;
  const auto in = global<uint32_t>(arrays.input("from", from));
  const auto out = global<uint32_t>(arrays.output("to", to));
  run.launch({}, 32, 0, [&] { store16(out + 4 * lane_index(), load16(in + 4 * lane_index())); });
}

// ---- tensor core ----

/// Row r of the 32 in `from` (8 numbers each) is given by lane r; `to` has 4 words a lane.
template <bool transposed>
void matrices(Run& run, const py::array& from, const py::array& to) {
  DeviceArrays arrays;
  const auto in = global<uint32_t>(arrays.input("from", from));
  const auto out = global<uint32_t>(arrays.output("to", to));
  run.launch({}, 32, 512, [&] {
    const int lane = lane_index();
    store(shared_memory() + 16 * lane, load16(in + 4 * lane));
    sync_warp();
    uint32_t word[4];
    if constexpr (transposed) {
      load_matrices_transposed(word, shared_memory() + 16 * lane);
    } else {
      load_matrices(word, shared_memory() + 16 * lane);
    }
    for (int i = 0; i < 4; ++i) store(out + (4 * lane + i), word[i]);
  });
}

/// Fragments as words of each lane: a 4, b 2, c 4.
template <class T>
void product(Run& run, const py::array& a, const py::array& b, const py::array& c) {
  DeviceArrays arrays;
  const auto left = global<uint32_t>(arrays.input("a", a)), right = global<uint32_t>(arrays.input("b", b));
  const py::array before = c.attr("copy")();
  const auto sum = global<float>(arrays.input("before", before));
  const auto out = global<float>(arrays.output("c", c));
  run.launch({}, 32, 0, [&] {
    const int lane = lane_index();
    uint32_t word[4];
    float number[4];
    for (int i = 0; i < 4; ++i) word[i] = load(left + (4 * lane + i));
    for (int i = 0; i < 4; ++i) number[i] = load(sum + (4 * lane + i));
    multiply_add<T>(number, word, load(right + 2 * lane), load(right + (2 * lane + 1)));
    for (int i = 0; i < 4; ++i) store(out + (4 * lane + i), number[i]);
  });
}

/// What a thread knows of itself: thread, lane, warp, block x, y and z, for every thread of the grid.
void indices(Run& run, const py::array& to, int x, int y, int z, int threads) {
  DeviceArrays arrays;
  const auto out = global<int>(arrays.output("to", to));
  run.launch({x, y, z}, threads, 0, [&] {
    const int block = (block_index_z() * y + block_index_y()) * x + block_index_x();
    const auto row = out + 6 * (static_cast<int64_t>(block) * threads + thread_index());
    const int known[6] = {thread_index(),  lane_index(),    warp_index(),
                          block_index_x(), block_index_y(), block_index_z()};
    for (int i = 0; i < 6; ++i) store(row + i, known[i]);
  });
}

}  // namespace

void bind_primitives(py::module_& module) {
  py::module_ bound = module.def_submodule("primitives", "One kernel for each primitive.");
  bind_map<float, float>(bound, "exp2_approx", [](float x) { return exp2_approx(x); });
  bind_map<float, float>(bound, "log2_approx", [](float x) { return log2_approx(x); });
  bind_map<float, float>(bound, "reciprocal", [](float x) { return reciprocal(x); });
  bind_pair<float>(bound, "maximum", [](float a, float b) { return maximum(a, b); });
  bind_pair<float>(bound, "fused_one", [](float a, float b) { return fused(a, b, 1.0f); });
  bind_map<float, Half>(bound, "widen_half", [](Half x) { return widen(x); });
  bind_map<float, BFloat16>(bound, "widen_bfloat16", [](BFloat16 x) { return widen(x); });
  bind_map<Half, float>(bound, "narrow_half", [](float x) { return narrow<Half>(x); });
  bind_map<BFloat16, float>(bound, "narrow_bfloat16", [](float x) { return narrow<BFloat16>(x); });
  bind_pair<float>(bound, "pack_half", [](float low, float high) { return pack<Half>(low, high); });
  bind_pair<float>(bound, "pack_bfloat16", [](float low, float high) { return pack<BFloat16>(low, high); });
  bind_map<uint32_t, uint32_t>(bound, "warp_or", [](uint32_t x) { return warp_or(x); });
  bind_map<uint32_t, uint32_t>(bound, "warp_and", [](uint32_t x) { return warp_and(x); });
  bind_map<float, float>(bound, "shuffle_up_3", [](float x) { return shuffle(x, lane_index() - 3); });
  for (int mask : {1, 2, 4, 8, 16, 21}) {
    bind_map<uint32_t, uint32_t>(bound, ("shuffle_xor_" + std::to_string(mask)).c_str(),
                                 [mask](uint32_t x) { return shuffle_xor(x, mask); });
    bind_map<float, float>(bound, ("shuffle_xor_float_" + std::to_string(mask)).c_str(),
                           [mask](float x) { return shuffle_xor(x, mask); });
  }
  bound.def("shared_2", &through_shared<uint16_t>);
  bound.def("shared_4", &through_shared<float>);
  bound.def("shared_8", &through_shared<Words<2>>);
  bound.def("shared_16", &through_shared<Words<4>>);
  bound.def("copy16", &copy16);
  bound.def("move16", &move16);
  bound.def("load_matrices", &matrices<false>);
  bound.def("load_matrices_transposed", &matrices<true>);
  bound.def("multiply_add_half", &product<Half>);
  bound.def("multiply_add_bfloat16", &product<BFloat16>);
  bound.def("indices", &indices);
}

}  // namespace emulator
