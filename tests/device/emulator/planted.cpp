// Small kernels that are right, and wrong where `broken` is set: what the emulator must let pass and must see.
#include <ptx/convert.h>
#include <ptx/matrix.h>
#include <ptx/memory.h>
#include <ptx/sync.h>

#include <map>

#include "bind.h"
#include "module.h"

namespace mmkernels {
namespace device {

constexpr int kThreads = 128;       // of a block
constexpr int kNumbers = 1024;      // in each array
constexpr uint32_t kShared = 4096;  // bytes

struct Call {
  Global<const float> in;
  Global<float> out;
  bool broken;
};

/// Cell `index` of 4 bytes.
MMK_DEVICE Shared cell(int index) { return shared_memory() + static_cast<uint32_t>(4 * index); }
MMK_DEVICE Shared row(int index) { return shared_memory() + static_cast<uint32_t>(16 * index); }

// ---- races in shared memory ----

MMK_DEVICE void barrier(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f * thread);
  if (!call.broken) sync_block();
  store(call.out + thread, load<float>(cell(kThreads - 1 - thread)));
}

MMK_DEVICE void warp_barrier(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f * thread);
  if (!call.broken) sync_warp();
  store(call.out + thread, load<float>(cell(thread ^ 1)));
}

/// A barrier of each warp does not order the warps.
MMK_DEVICE void barrier_of_block(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f * thread);
  if (call.broken) sync_warp();
  if (!call.broken) sync_block();
  store(call.out + thread, load<float>(cell(kThreads - 1 - thread)));
}

/// A shuffle does not order memory.
MMK_DEVICE void shuffle_between(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f * thread);
  float other = shuffle_xor(1.0f, 1);
  if (!call.broken) sync_warp();
  store(call.out + thread, other + load<float>(cell(thread ^ 1)));
}

MMK_DEVICE void matrices_after_store(const Call& call) {
  const int thread = thread_index();
  store(row(thread), Words<4>{});
  if (!call.broken) sync_warp();
  uint32_t word[4];
  load_matrices(word, row(thread));
  store(call.out + thread, 1.0f * word[0]);
}

MMK_DEVICE void store_after_matrices(const Call& call) {
  const int thread = thread_index();
  store(row(thread), Words<4>{});
  sync_warp();
  uint32_t word[4];
  load_matrices(word, row(thread));
  if (!call.broken) sync_warp();
  store(row(thread ^ 7), Words<4>{{word[0], 0, 0, 0}});
}

MMK_DEVICE void two_writers(const Call& call) {
  if (lane_index() == 0 && (call.broken || warp_index() == 0)) store(cell(0), 1.0f);
}

/// Whoever reads last, all readers must be done.
MMK_DEVICE void readers_then_writer(const Call& call) {
  const int thread = thread_index();
  if (thread == 0) store(cell(0), 1.0f);
  sync_block();
  store(call.out + thread, load<float>(cell(0)));
  if (!call.broken) sync_block();
  if (thread == 77) store(cell(0), 2.0f);
}

/// The same within a warp: its barrier is enough for its own lanes.
MMK_DEVICE void lanes_then_writer(const Call& call) {
  const int lane = lane_index();
  if (warp_index() != 0) return;
  if (lane == 0) store(cell(0), 1.0f);
  sync_warp();
  store(call.out + lane, load<float>(cell(0)));
  if (!call.broken) sync_warp();
  if (lane == 7) store(cell(0), 2.0f);
}

/// A warp that has waited for its own lanes has not waited for another warp's.
MMK_DEVICE void warps_then_writer(const Call& call) {
  const int thread = thread_index();
  if (thread == 0) store(cell(0), 1.0f);
  sync_block();
  if (warp_index() == 0 || (call.broken && thread == 40)) store(call.out + thread, load<float>(cell(0)));
  sync_warp();
  if (thread == 7) store(cell(0), 2.0f);
}

/// Half of a word each: neighbours, not the same cell.
MMK_DEVICE void halves(const Call& call) {
  const int thread = thread_index();
  store(shared_memory() + static_cast<uint32_t>(call.broken ? thread / 2 * 2 : thread * 2), narrow<Half>(1.0f));
}

MMK_DEVICE void never_written(const Call& call) {
  const int thread = thread_index();
  store(cell(thread), 1.0f);
  store(call.out + thread, load<float>(cell(thread + (call.broken ? kThreads : 0))));
}

// ---- barriers and collectives that not all come to ----

MMK_DEVICE void half_a_block(const Call& call) {
  if (!call.broken || thread_index() < 64) sync_block();
}

MMK_DEVICE void different_barriers(const Call& call) {
  if (call.broken && thread_index() < 64) {
    sync_block();
  } else {
    sync_block();
  }
}

MMK_DEVICE void different_collectives(const Call& call) {
  if (call.broken && lane_index() < 16) sync_warp();
  shuffle_xor(1.0f, 1);
  if (call.broken && lane_index() >= 16) sync_warp();
}

MMK_DEVICE void lane_skips(const Call& call) {
  if (!(call.broken && lane_index() == 5)) shuffle_xor(1.0f, 1);
  sync_block();
}

MMK_DEVICE void lane_returns(const Call& call) {
  if (call.broken && lane_index() == 5) return;
  shuffle_xor(1.0f, 1);
}

MMK_DEVICE void waits_without_end(const Call& call) {
  if (thread_index() == 0) store(cell(0), call.broken ? 0u : 1u);
  sync_block();
  while (load<uint32_t>(cell(0)) == 0) {
  }
}

// ---- addresses ----

MMK_DEVICE void shared_end(const Call& call) {
  store(cell(static_cast<int>(kShared / 4) - kThreads + thread_index() + call.broken), 1.0f);
}
MMK_DEVICE void shared_begin(const Call& call) { store(cell(thread_index() - call.broken), 1.0f); }
MMK_DEVICE void shared_row(const Call& call) {
  store(row(thread_index()), Words<4>{});
  sync_warp();
  uint32_t word[4];
  load_matrices(word, row(thread_index()) + (call.broken ? 8 : 0));
}
MMK_DEVICE void shared_alignment(const Call& call) { store(row(thread_index()) + (call.broken ? 4 : 8), Words<2>{}); }
MMK_DEVICE void global_load_end(const Call& call) {
  load(call.in + (kNumbers - kThreads + thread_index() + call.broken));
}
MMK_DEVICE void global_store_begin(const Call& call) { store(call.out + (thread_index() - call.broken), 1.0f); }
MMK_DEVICE void global_other_array(const Call& call) {
  const auto number = [](auto place) { return reinterpret_cast<uint64_t>(place.pointer) << 16 >> 16; };
  const int64_t between = static_cast<int64_t>(number(call.out) - number(call.in)) / 4;
  load(call.in + (call.broken ? between : 0));
}
MMK_DEVICE void global_alignment(const Call& call) { load16(call.in + (4 * thread_index() + call.broken)); }
MMK_DEVICE void copy_alignment(const Call& call) {
  copy16_async(row(thread_index()), call.in + (4 * thread_index() + call.broken), true);
  commit_copies();
  wait_copies<0>();
}
MMK_DEVICE void null(const Call& call) { load(call.broken ? Global<const float>{nullptr} : call.in); }
MMK_DEVICE void store_to_input(const Call& call) {
  store(call.broken ? Global<float>{const_cast<float*>(call.in.pointer)} + thread_index() : call.out + thread_index(),
        1.0f);
}
/// Past the accessors.
MMK_DEVICE void dereference(const Call& call) {
  if (call.broken) *const_cast<volatile float*>(call.out.pointer) = 1.0f;
}

// ---- asynchronous copies ----

MMK_DEVICE void copy(Shared to, Global<const float> from) { copy16_async(to, from, true); }

MMK_DEVICE void copy_wait(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  if (!call.broken) wait_copies<0>();
  store(call.out + thread, load<float>(row(thread)));
  if (call.broken) wait_copies<0>();
}

MMK_DEVICE void copy_barrier(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  wait_copies<0>();
  if (!call.broken) sync_block();
  store(call.out + thread, load<float>(row(thread ^ 33)));
}

/// The barrier must come after the wait.
MMK_DEVICE void copy_barrier_first(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  if (call.broken) sync_block();
  wait_copies<0>();
  if (!call.broken) sync_block();
  store(call.out + thread, load<float>(row(thread ^ 33)));
}

MMK_DEVICE void copy_groups(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  copy(row(kThreads + thread), call.in + 4 * thread);
  commit_copies();
  wait_copies<1>();
  store(call.out + thread, load<float>(row((call.broken ? kThreads : 0) + thread)));
  wait_copies<0>();
}

MMK_DEVICE void copy_commit(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  if (!call.broken) commit_copies();
  wait_copies<0>();
  store(call.out + thread, load<float>(row(thread)));
  commit_copies();
  wait_copies<0>();
}

MMK_DEVICE void copy_overwritten(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  if (call.broken) store(row(thread), 1.0f);
  wait_copies<0>();
  store(row(thread), 1.0f);
}

MMK_DEVICE void copy_over_copy(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  if (!call.broken) wait_copies<0>();
  copy(row(thread), call.in + 4 * thread);
  commit_copies();
  wait_copies<0>();
}

/// A stage of a ring that is filled again must have been read by all.
MMK_DEVICE void copy_over_reads(const Call& call) {
  const int thread = thread_index();
  for (int step = 0; step < 2; ++step) {
    copy(row(thread), call.in + 4 * thread);
    commit_copies();
    wait_copies<0>();
    sync_block();
    store(call.out + (step * kThreads + thread), load<float>(row(thread ^ 33)));
    if (!call.broken) sync_block();
  }
}

MMK_DEVICE void copy_source(const Call& call) {
  const int thread = thread_index();
  copy(row(thread), Global<const float>{call.out.pointer} + 4 * thread);
  commit_copies();
  if (call.broken) store(call.out + 4 * thread, 2.0f);
  wait_copies<0>();
}

MMK_DEVICE void copy_outstanding(const Call& call) {
  copy(row(thread_index()), call.in + 4 * thread_index());
  commit_copies();
  if (!call.broken) wait_copies<0>();
}

// ---- global memory, two blocks ----

MMK_DEVICE void blocks_write(const Call& call) {
  store(call.out + thread_index(), call.broken ? 1.0f * block_index_x() : 1.0f);
}

MMK_DEVICE void block_reads_other(const Call& call) {
  const int thread = thread_index();
  const int other = block_index_x() ^ (call.broken ? 1 : 0);
  store(call.out + (block_index_x() * kThreads + thread), 1.0f);
  sync_warp();
  copy(row(thread), Global<const float>{call.out.pointer} + (other * kThreads + thread / 4 * 4));
  commit_copies();
  wait_copies<0>();
}

/// Loads go through the cache that knows nothing of this launch's stores, even of its own thread's.
MMK_DEVICE void load_of_stored(const Call& call) {
  const int place = block_index_x() * kThreads + thread_index();
  store(call.out + place, 1.0f);
  load(call.broken ? Global<const float>{call.out.pointer} + place : call.in + place);
}

MMK_DEVICE void store_of_loaded(const Call& call) {
  const int place = block_index_x() * kThreads + thread_index();
  store(call.out + place, load(call.broken ? Global<const float>{call.out.pointer} + place : call.in + place) + 1.0f);
}

/// A whole warp reads cells `stride` bytes apart, of sizeof(T) each.
template <class T>
void strided(const Call&, uint32_t stride) {
  const Shared mine = shared_memory() + lane_index() * stride;
  store(mine, T{});
  load<T>(mine);
}

/// A thread's own array: what AddressSanitizer must see on the stack of a fiber.
MMK_DEVICE void local_array(const Call& call, int index) {
  float own[4] = {0.0f, 1.0f, 2.0f, 3.0f};
  float* volatile begin = own;  // what the compiler cannot follow
  sync_block();
  store(call.out + thread_index(), *(begin + index));
}

}  // namespace device
}  // namespace mmkernels

namespace emulator {
namespace {

namespace device = mmkernels::device;

#define PLANTED(blocks, name)        \
  {                                  \
    #name, { blocks, &device::name } \
  }
const std::map<std::string, std::pair<int, void (*)(const device::Call&)>> kPlanted = {
    PLANTED(1, barrier),
    PLANTED(1, warp_barrier),
    PLANTED(1, barrier_of_block),
    PLANTED(1, shuffle_between),
    PLANTED(1, matrices_after_store),
    PLANTED(1, store_after_matrices),
    PLANTED(1, two_writers),
    PLANTED(1, readers_then_writer),
    PLANTED(1, lanes_then_writer),
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
    PLANTED(2, load_of_stored),
    PLANTED(2, store_of_loaded),
};
#undef PLANTED

template <class Kernel>
void run_planted(Run& run, const py::array& in, const py::array& out, bool broken, int blocks, Kernel kernel) {
  if (in.nbytes() != device::kNumbers * 4 || out.nbytes() != device::kNumbers * 4) {
    throw py::value_error("arrays of 1024 fp32 numbers");
  }
  DeviceArrays arrays;
  const device::Call call{device::global<float>(arrays.input("in", in)),
                          device::global<float>(arrays.output("out", out)), broken};
  run.launch({blocks}, device::kThreads, device::kShared, [&] { kernel(call); });
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
    using Kernel = void (*)(const device::Call&, uint32_t);
    const Kernel kernel = bytes == 2   ? &device::strided<uint16_t>
                          : bytes == 4 ? &device::strided<float>
                          : bytes == 8 ? &device::strided<mmkernels::Words<2>>
                                       : &device::strided<mmkernels::Words<4>>;
    run_planted(run, in, out, false, 1, [&](const device::Call& call) {
      if (device::warp_index() == 0) kernel(call, stride);
    });
  });
  module.def("local_array", [](Run& run, int index, const py::array& in, const py::array& out) {
    run_planted(run, in, out, false, 1, [&](const device::Call& call) { device::local_array(call, index); });
  });
}

}  // namespace emulator
