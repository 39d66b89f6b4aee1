// Small kernels that are right, and wrong where `broken` is set: what the emulator must let pass and must see.
#include <map>
#include <string>
#include <utility>

#include "bind.h"
#include "module.h"
#include "planted/addresses.h"
#include "planted/blocks.h"
#include "planted/collectives.h"
#include "planted/copies.h"
#include "planted/counted.h"
#include "planted/shared.h"

namespace emulator {
namespace {

namespace device = mmkernels::device;
namespace planted = mmkernels::device::planted;

#define PLANTED(blocks, name)         \
  {                                   \
    #name, { blocks, &planted::name } \
  }
const std::map<std::string, std::pair<int, void (*)(const planted::Call&)>> kPlanted = {
    PLANTED(1, barrier),
    PLANTED(1, warp_barrier),
    PLANTED(1, barrier_of_block),
    PLANTED(1, shuffle_between),
    PLANTED(1, matrices_after_store),
    PLANTED(1, store_after_matrices),
    PLANTED(1, own_row_after_matrices),
    PLANTED(1, two_writers),
    PLANTED(1, readers_then_writer),
    PLANTED(1, lanes_then_writer),
    PLANTED(1, last_reader_writes),
    PLANTED(1, warps_then_writer),
    PLANTED(1, halves),
    PLANTED(1, never_written),
    PLANTED(2, half_a_block),
    PLANTED(1, different_barriers),
    PLANTED(1, different_collectives),
    PLANTED(1, lane_skips),
    PLANTED(1, lane_returns),
    PLANTED(1, waits_without_end),
    PLANTED(1, shared_end),
    PLANTED(1, shared_begin),
    PLANTED(1, shared_row),
    PLANTED(1, shared_alignment),
    PLANTED(1, global_load_end),
    PLANTED(1, global_store_begin),
    PLANTED(1, global_other_array),
    PLANTED(1, global_alignment),
    PLANTED(1, copy_alignment),
    PLANTED(1, null),
    PLANTED(1, store_to_input),
    PLANTED(1, dereference),
    PLANTED(1, copy_wait),
    PLANTED(1, copy_barrier),
    PLANTED(1, copy_barrier_first),
    PLANTED(1, copy_groups),
    PLANTED(1, copy_commit),
    PLANTED(1, copy_overwritten),
    PLANTED(1, copy_over_copy),
    PLANTED(1, copy_over_reads),
    PLANTED(1, copy_source),
    PLANTED(2, copy_outstanding),
    PLANTED(2, blocks_write),
    PLANTED(2, block_reads_other),
    PLANTED(2, block_writes_other),
    PLANTED(2, load_of_stored),
    PLANTED(2, store_of_loaded),
};
#undef PLANTED

template <class Kernel>
void run_planted(Run& run, const py::array& in, const py::array& out, bool broken, int blocks, Kernel kernel) {
  if (in.nbytes() != planted::kNumbers * 4 || out.nbytes() != planted::kNumbers * 4) {
    throw py::value_error("arrays of 1024 fp32 numbers");
  }
  DeviceArrays arrays;
  const planted::Call call{device::global<float>(arrays.input("in", in)),
                           device::global<float>(arrays.output("out", out)), broken};
  run.launch({blocks}, planted::kThreads, planted::kShared, [&] { kernel(call); });
}

}  // namespace

void bind_planted(py::module_& module) {
  module.def("planted", [] {
    py::list names;
    for (const auto& [name, kernel] : kPlanted) names.append(name);
    return names;
  });
  module.def("run_planted",
             [](Run& run, const std::string& name, bool broken, const py::array& in, const py::array& out) {
               const auto& [blocks, kernel] = kPlanted.at(name);
               run_planted(run, in, out, broken, blocks, kernel);
             });
  module.def("strided", [](Run& run, int bytes, uint32_t stride, const py::array& in, const py::array& out) {
    using Kernel = void (*)(const planted::Call&, uint32_t);
    const Kernel kernel = bytes == 2   ? &planted::strided<uint16_t>
                          : bytes == 4 ? &planted::strided<float>
                          : bytes == 8 ? &planted::strided<mmkernels::Words<2>>
                                       : &planted::strided<mmkernels::Words<4>>;
    run_planted(run, in, out, false, 1, [&](const planted::Call& call) {
      if (device::warp_index() == 0) kernel(call, stride);
    });
  });
  module.def("local_array", [](Run& run, int index, const py::array& in, const py::array& out) {
    run_planted(run, in, out, false, 1, [&](const planted::Call& call) { planted::local_array(call, index); });
  });
}

}  // namespace emulator
