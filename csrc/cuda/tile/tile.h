// A tile of rows in shared memory, and how it gets there.
//
// A row is cut into chunks of 16 bytes. Chunk c of row r stands at place c ^ swizzle(r) of the row, so that the eight rows
// that a phase of ldmatrix reads, all at the same c, lie in eight different groups of banks.
#pragma once

#include <ptx/memory.h>

MMK_NAMESPACE_BEGIN

template <class T_, int kRows_, int kColumns_>
struct Tile {
  using T = T_;
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kRowBytes = kColumns * static_cast<int>(sizeof(T)), kBytes = kRows * kRowBytes;
  static constexpr int kChunks = kRowBytes / 16, kChunkElements = 16 / static_cast<int>(sizeof(T));
  static_assert(kChunks >= 4 && (kChunks & (kChunks - 1)) == 0, "rows of 64, 128, 256 ... bytes");

  Shared base;  // a multiple of kRowBytes, and of 128

  /// Rows of 64 bytes stand two in a line of all banks: they swizzle in pairs.
  MMK_DEVICE static uint32_t swizzle(uint32_t row) { return kChunks >= 8 ? row & 7 : (row >> 1) & 3; }
  MMK_DEVICE static uint32_t offset(uint32_t row, uint32_t chunk) {
    return row * kRowBytes + ((chunk ^ swizzle(row)) << 4);
  }
  /// From the offset of chunk 0 or 1 of a row, that of the chunk 2 `steps` further: swizzling moves chunks inside 128 bytes
  /// only, so there are four such offsets to keep, whatever the width, and the rest is a constant.
  MMK_DEVICE static uint32_t along(uint32_t offset, uint32_t steps) {
    return (offset ^ (steps % 4 * 32)) + steps / 4 * 128;
  }
  MMK_DEVICE Shared at(uint32_t row, uint32_t chunk) const { return base + offset(row, chunk); }
  /// The element of a row and column.
  MMK_DEVICE Shared element(uint32_t row, uint32_t column) const {
    return at(row, column / kChunkElements) + (column % kChunkElements) * static_cast<uint32_t>(sizeof(T));
  }
};

/// Where the rows of a tile come from: row r stands at data + r * stride and has `dim` elements.
template <class T>
struct Rows {
  Global<const T> data;
  int64_t stride;
  int dim;
  bool whole_chunks;  // every chunk is aligned and inside a row, or beside it; strides are small

  MMK_DEVICE static Rows of(Global<const T> data, int64_t stride, int64_t dim) {
    constexpr int kElements = 16 / static_cast<int>(sizeof(T));
    const bool whole = data.aligned16() && stride % kElements == 0 && dim % kElements == 0 && stride >= 0 &&
                       stride < (int64_t{1} << 24);
    return {data, stride, static_cast<int>(dim), whole};
  }
  /// The same from an element on, whose number is a multiple of a chunk's.
  MMK_DEVICE Rows from(int element) const { return {data + element, stride, dim - element, whole_chunks}; }
};

/// One chunk, element by element: rows of any stride, length and alignment. Zeros from `count` elements on. By halves,
/// lest the numbers on their way take too many registers from the products.
template <class T>
MMK_DEVICE void copy_chunk(Shared to, Global<const T> from, int count) {
  constexpr int kElements = 8 / static_cast<int>(sizeof(T));
  struct alignas(8) Numbers {
    T element[kElements];
  };
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    Numbers numbers;
#pragma unroll
    for (int i = 0; i < kElements; ++i)
      numbers.element[i] = half * kElements + i < count ? load(from + (half * kElements + i)) : T{};
    store(to + half * 8, numbers);
  }
}

/// Copies rows [first, first + kRows) of the source, zeros for those from first + count on. The copies are asynchronous
/// where they can be: a commit, a wait and a barrier follow. `kWhole`: the caller knows that the source has whole chunks.
template <int kThreads, bool kWhole, class Tile>
MMK_DEVICE void copy_rows(Tile tile, const Rows<typename Tile::T>& source, int64_t first, int count) {
  using T = typename Tile::T;
  constexpr int kSteps = Tile::kRows * Tile::kChunks / kThreads;
  static_assert(kSteps * kThreads == Tile::kRows * Tile::kChunks, "every thread copies equally many chunks");
  constexpr int kAcross = kThreads < Tile::kChunks ? Tile::kChunks / kThreads : 1;  // chunks of a row, one thread
  constexpr int kDown = kThreads < Tile::kChunks ? 1 : kThreads / Tile::kChunks;    // rows at a time
  const uint32_t thread = thread_index(), own_row = kAcross > 1 ? 0 : thread / Tile::kChunks;
  const uint32_t own_chunk = kAcross > 1 ? thread : thread % Tile::kChunks;
  const auto row_of = [&](int i) { return own_row + i / kAcross * kDown; };
  const auto chunk_of = [&](int i) { return own_chunk + i % kAcross * kThreads; };
  const auto column_of = [&](int i) { return static_cast<int>(chunk_of(i)) * Tile::kChunkElements; };
  if (kWhole || source.whole_chunks) {
    // 32 bits by 32 bits, in bytes: one instruction an address
    const uint32_t step = static_cast<uint32_t>(source.stride) * static_cast<uint32_t>(sizeof(T));
    const auto down = [&](uint32_t rows) { return static_cast<int64_t>(static_cast<uint64_t>(step) * rows); };
    const Global<const uint8_t> own = global<uint8_t>(static_cast<const void*>(source.data.pointer)) +
                                      (down(own_row) + own_chunk * 16) + down(static_cast<uint32_t>(first));
#pragma unroll(kWhole || kSteps <= 4 ? kSteps : 1)
    for (int i = 0; i < kSteps; ++i) {
      const int row_down = i / kAcross * kDown, across = i % kAcross * kThreads * 16;
      const bool in_row = column_of(i) < source.dim;
      const Global<const uint8_t> from = own + (down(row_down) + across);
      copy16_async(tile.at(row_of(i), chunk_of(i)), global<T>(static_cast<const void*>(from.pointer)),
                   row_down < (in_row ? count - static_cast<int>(own_row) : 0));
    }
  } else {
    const Global<const T> from = source.data + first * source.stride;
#pragma unroll 1
    for (int i = 0; i < kSteps; ++i) {
      const int left = static_cast<int>(row_of(i)) < count ? source.dim - column_of(i) : 0;
      copy_chunk(tile.at(row_of(i), chunk_of(i)), from + (row_of(i) * source.stride + column_of(i)), left);
    }
  }
}

MMK_NAMESPACE_END
