// Rows that a norm applies to, on their way into a tile: (x - mean) / std times the norm's weight, in fp32, rounded again.
#pragma once

#include "block_product.h"

MMK_NAMESPACE_BEGIN

struct Normaliser {
  const float *mean, *rstd;  // of the rows; mean is nullptr for an RMSNorm
  const float* weight;       // of the columns, or nullptr
};

/// As stage_rows, for rows first_row.. of those that the statistics are of.
template <int kThreads, class Tile, class Offset>
MMK_DEVICE void stage_normalised_rows(Tile tile, Global<const typename Tile::T> data, const Offset& offset,
                                      int64_t first_row, int count, int64_t first, int64_t width, bool whole,
                                      const Normaliser& norm) {
  using T = typename Tile::T;
  using Own = OwnChunks<Tile, kThreads>;
  constexpr int kElements = Tile::kChunkElements;
  struct alignas(16) Chunk {
    T element[kElements];
  };
  const int64_t column = first + Own::column();
  const auto mean_of = [&](int64_t row) {
    return norm.mean ? load(global<float>(norm.mean) + (first_row + row)) : 0.0f;
  };
  const auto rstd_of = [&](int64_t row) { return load(global<float>(norm.rstd) + (first_row + row)); };
  const auto weight_of = [&](int e) { return norm.weight ? load(global<float>(norm.weight) + (column + e)) : 1.0f; };
  if (whole) {
    float weight[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) weight[e] = column < width ? weight_of(e) : 0.0f;
#pragma unroll
    for (int i = 0; i < Own::kCount; ++i) {
      const int64_t row = Own::row(i);
      Chunk chunk{};
      if (row < count && column < width) {
        const float mean = mean_of(row), rstd = rstd_of(row);
        chunk = bits_as<Chunk>(load16(data + (offset(i) + column)));
#pragma unroll
        for (int e = 0; e < kElements; ++e)
          chunk.element[e] = narrow<T>((widen(chunk.element[e]) - mean) * rstd * weight[e]);
      }
      store(tile.at(Own::row(i), Own::chunk()), chunk);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < Own::kCount * kElements; ++i) {
    const int64_t row = Own::row(i / kElements);
    const int e = i % kElements;
    T element{};
    if (row < count && column + e < width) {
      const float x = widen(load(data + (offset(i / kElements) + column + e)));
      element = narrow<T>((x - mean_of(row)) * rstd_of(row) * weight_of(e));
    }
    store(tile.at(static_cast<uint32_t>(row), Own::chunk()) + e * static_cast<uint32_t>(sizeof(T)), element);
  }
}

MMK_NAMESPACE_END
