// How a contrastive_loss call is laid out on the device: bands, tiles, memory, and which kernels run in which order. Plain
// host code, which the emulator runs as well. Nothing depends on the device: equal sizes give equal bits.
#pragma once

#include "../tile/contrastive_call.h"
#include "contrastive.h"
#include "contrastive_table.h"

MMK_NAMESPACE_BEGIN

/// Pairs of a band at most, unless one row of tiles has more: 64 MiB of 16-bit slopes.
constexpr int64_t kContrastiveBandPairs = int64_t{1} << 25;

/// A workspace being shared out; without memory it only counts.
class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(int64_t count) {
    T* part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    return part;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  int64_t bytes_ = 0;
};

/// The bands of a call, whose kernels have tiles of `Tile`.
template <class Tile>
struct ContrastiveBands {
  ContrastiveCall call;
  int64_t count = 0, tallest = 0;

  ContrastiveBands(const ContrastiveInput& input, int64_t pairs) {
    call.problem = input.problem;
    call.scale = input.scale;
    call.bias = input.bias;
    call.column_tiles = static_cast<int>(ceil_div(input.problem.columns, Tile::kColumns));
    call.columns_padded = call.column_tiles * int64_t{Tile::kColumns};
    const int64_t row_tiles = ceil_div(input.problem.rows, Tile::kRows);
    const int64_t fitting = larger<int64_t>(1, pairs / call.columns_padded / Tile::kRows);
    tallest = smaller(fitting, row_tiles) * Tile::kRows;
    count = ceil_div(row_tiles * Tile::kRows, tallest);
  }

  /// The call of band `i`.
  ContrastiveCall band(int64_t i) const {
    ContrastiveCall c = call;
    c.band_first = i * tallest;
    const int64_t tiles = ceil_div(c.problem.rows - c.band_first, Tile::kRows);
    c.row_tiles = static_cast<int>(smaller(tiles, tallest / Tile::kRows));
    c.band_rows = c.row_tiles * int64_t{Tile::kRows};
    c.tiles_before = c.band_first / Tile::kRows * c.column_tiles;
    c.first_band = i == 0;
    c.last_band = i + 1 == count;
    return c;
  }
};

/// Statistics of the softmax kind; `launch(ContrastiveKernel, blocks, call)` runs a kernel. Bytes of workspace.
template <class Kernels, class Launch>
int64_t contrastive_statistics(const ContrastiveInput& input, void* memory, const Launch& launch,
                               int64_t band_pairs = kContrastiveBandPairs) {
  using Statistics = typename Kernels::Statistics;
  ContrastiveBands<Statistics> bands(input, band_pairs);
  Workspace workspace(memory);
  bands.call.row_partial = workspace.take<float>(bands.call.column_tiles * kStatisticNumbers * bands.tallest);
  bands.call.column_partial =
      workspace.take<float>(bands.tallest / Statistics::kRows * kStatisticNumbers * bands.call.columns_padded);
  for (int64_t i = 0; memory != nullptr && i < bands.count; ++i) {
    const ContrastiveCall call = bands.band(i);
    launch(TypeOf<Statistics>{}, int64_t{call.row_tiles} * call.column_tiles, call);
    launch(TypeOf<MergeContrastiveStatistics>{}, MergeContrastiveStatistics::blocks(call), call);
  }
  return workspace.bytes();
}

/// Gradients of either kind, and losses of the sigmoid kind. Bytes of workspace.
template <class Kernels, bool kSigmoid, class Launch>
int64_t contrastive_gradients(const ContrastiveInput& input, void* memory, const Launch& launch,
                              int64_t band_pairs = kContrastiveBandPairs) {
  using T = typename Kernels::T;
  using Slopes = typename Kernels::template Slopes<kSigmoid>;
  const ContrastiveProblem& p = input.problem;
  ContrastiveBands<Slopes> bands(input, band_pairs);
  ContrastiveCall& all = bands.call;
  const bool of_image = p.grad_image.data != nullptr, of_text = p.grad_text.data != nullptr;
  const int64_t tiles = ceil_div(p.rows, Slopes::kRows) * all.column_tiles;
  Workspace workspace(memory);
  if (p.row_loss != nullptr) all.row_partial = workspace.take<float>(all.column_tiles * bands.tallest);
  if (p.sums != nullptr) all.tile_sums = workspace.take<double>(2 * tiles);
  if (of_image || of_text) {
    all.slopes = workspace.take<T>(bands.tallest * all.columns_padded);
    all.range = workspace.take<float>(2);
  }
  if (of_text && bands.count > 1)
    all.carry = p.grad_text.dtype == DType::kFloat32 ? static_cast<float*>(p.grad_text.data)
                                                     : workspace.take<float>(p.columns * p.dim);
  if (memory == nullptr) return workspace.bytes();

  const auto run = [&](auto kernel, const ContrastiveCall& call) {
    launch(kernel, decltype(kernel)::Type::blocks(call), call);
  };
  if (of_image || of_text) run(TypeOf<FindContrastiveRange<T>>{}, all);
  for (int64_t i = 0; i < bands.count; ++i) {
    const ContrastiveCall call = bands.band(i);
    launch(TypeOf<Slopes>{}, int64_t{call.row_tiles} * call.column_tiles, call);
    if (p.row_loss != nullptr) run(TypeOf<MergeContrastiveLosses>{}, call);
    if (of_image) run(TypeOf<typename Kernels::GradImage>{}, call);
    if (of_text) run(TypeOf<typename Kernels::GradText>{}, call);
  }
  if (p.sums != nullptr) {
    all.tiles_before = tiles;
    run(TypeOf<MergeContrastiveSums>{}, all);
  }
  return workspace.bytes();
}

MMK_NAMESPACE_END
