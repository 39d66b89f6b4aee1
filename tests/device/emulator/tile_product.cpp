// A real kernel in small: c = a b^T over tiles of 64 x 64, the way attention forms its scores.
#include <ptx/convert.h>
#include <ptx/matrix.h>
#include <ptx/memory.h>
#include <ptx/sync.h>

#include "bind.h"
#include "module.h"

namespace mmkernels {
namespace device {

struct TileProduct {
  const void *a, *b;
  void* c;
  int rows, columns, depth;  // depth: a multiple of 8
};

constexpr int kTile = 64, kDepth = 32, kStages = 2;
constexpr uint32_t kStageBytes = kTile * kDepth * 2;

/// Chunk (16 bytes) of a row, moved about so that 8 rows of one chunk lie in different banks.
MMK_DEVICE Shared chunk_of(Shared tile, int row, int chunk) {
  return tile + static_cast<uint32_t>(row * kDepth * 2 + (chunk ^ (row / 2 & 3)) * 16);
}

template <class T>
MMK_DEVICE void start_tile(Shared tile, Global<const T> from, int first_row, int rows, int first, int depth) {
  constexpr int chunks = kDepth / 8;
  for (int i = thread_index(); i < kTile * chunks; i += 128) {
    const int row = i / chunks, chunk = i % chunks;
    const bool inside = first_row + row < rows && first + 8 * chunk < depth;
    copy16_async(chunk_of(tile, row, chunk), from + (int64_t{first_row + row} * depth + first + 8 * chunk), inside);
  }
}

/// 4 warps, 16 rows each. Stages of a and b are brought in while those before are multiplied.
template <class T>
MMK_DEVICE void tile_product(const TileProduct& call) {
  const int row0 = block_index_x() * kTile, column0 = block_index_y() * kTile;
  const int lane = lane_index(), warp = warp_index();
  const auto a = global<T>(call.a), b = global<T>(call.b);
  const auto stage = [](int step) { return shared_memory() + (step % kStages) * 2 * kStageBytes; };
  const auto start = [&](int step) {
    if (step * kDepth < call.depth) {
      start_tile(stage(step), a, row0, call.rows, step * kDepth, call.depth);
      start_tile(stage(step) + kStageBytes, b, column0, call.columns, step * kDepth, call.depth);
    }
    commit_copies();
  };

  float c[kTile / 8][4] = {};
  start(0);
  for (int step = 0; step * kDepth < call.depth; ++step) {
    start(step + 1);
    wait_copies<1>();
    sync_block();
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t left[4];
      load_matrices(left, chunk_of(stage(step), warp * 16 + lane % 16, 2 * k + lane / 16));
      for (int n = 0; n < kTile / 16; ++n) {
        uint32_t right[4];
        const int row = n * 16 + lane % 8 + lane / 16 * 8;
        load_matrices(right, chunk_of(stage(step) + kStageBytes, row, 2 * k + lane / 8 % 2));
        multiply_add<T>(c[2 * n], left, right[0], right[1]);
        multiply_add<T>(c[2 * n + 1], left, right[2], right[3]);
      }
    }
    sync_block();
  }
  const auto out = global<float>(call.c);
  for (int n = 0; n < kTile / 8; ++n) {
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + warp * 16 + lane / 4 + i / 2 * 8, column = column0 + n * 8 + lane % 4 * 2 + i % 2;
      if (row < call.rows && column < call.columns) store(out + (int64_t{row} * call.columns + column), c[n][i]);
    }
  }
  wait_copies<0>();
}

}  // namespace device
}  // namespace mmkernels

namespace emulator {

void bind_tile_product(py::module_& module) {
  const auto bind = [&](const char* name, auto type) {
    using T = decltype(type);
    module.def(name, [](Run& run, const py::array& a, const py::array& b, const py::array& c) {
      using namespace mmkernels::device;
      DeviceArrays arrays;
      const int rows = static_cast<int>(a.shape(0)), columns = static_cast<int>(b.shape(0));
      const TileProduct call{arrays.input("a", a),        arrays.input("b", b), arrays.output("c", c), rows, columns,
                             static_cast<int>(a.shape(1))};
      run.launch({(rows + kTile - 1) / kTile, (columns + kTile - 1) / kTile}, 128, kStages * 2 * kStageBytes,
                 [&] { tile_product<T>(call); });
    });
  };
  bind("tile_product_half", mmkernels::Half());
  bind("tile_product_bfloat16", mmkernels::BFloat16());
}

}  // namespace emulator
