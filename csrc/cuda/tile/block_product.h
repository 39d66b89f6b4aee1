// The product of two matrices by a block of threads: tiles of both arrive in a ring of shared memory while the ones before
// are multiplied, and the sums end in shared memory, where whole rows of them are.
//
// An operand's tile lies along the depth (its rows are rows of the result) or across it (its rows are steps of the depth;
// fragments are transposed as they are loaded). Either way its memory is read in runs, as it lies.
#pragma once

#include "product.h"

MMK_NAMESPACE_BEGIN

/// c += a b: rows `row`.. of the result by columns `column`.. of it, over the depth of both tiles.
template <bool kLeftAcross, bool kRightAcross, class A, class B, class C>
MMK_DEVICE void add_product(C& c, A a, uint32_t row, B b, uint32_t column) {
  using T = typename A::T;
  constexpr int kDepth = kLeftAcross ? A::kRows : A::kColumns;
  static_assert(kDepth == (kRightAcross ? B::kRows : B::kColumns), "one depth");
  const uint32_t lane = lane_index();
  if constexpr (sizeof(T) == 2) {
    // row / 8 and column / 8 are multiples of the fragments that are stepped over: xor moves along a row
    const Shared own_a =
        kLeftAcross ? a.at(lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2) : a.at(row + lane % 16, lane / 16);
    const Shared own_b =
        kRightAcross ? b.at(lane % 16, column / 8 + lane / 16) : b.at(column + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t left[C::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < C::kRowTiles; ++m) {
        if constexpr (kLeftAcross) {
          load_matrices_transposed(left[m], (own_a ^ (m * 32)) + k * 16 * A::kRowBytes);
        } else {
          load_matrices(left[m], (own_a ^ (k * 32)) + m * 16 * A::kRowBytes);
        }
      }
#pragma unroll
      for (int n = 0; n < C::kColumnTiles / 2; ++n) {
        uint32_t right[4];
        if constexpr (kRightAcross) {
          load_matrices_transposed(right, (own_b ^ (n * 32)) + k * 16 * B::kRowBytes);
        } else {
          load_matrices(right, (own_b ^ (k * 32)) + n * 16 * B::kRowBytes);
        }
#pragma unroll
        for (int m = 0; m < C::kRowTiles; ++m) {
          multiply_add<T>(c.at[m][2 * n], left[m], right[0], right[1]);
          multiply_add<T>(c.at[m][2 * n + 1], left[m], right[2], right[3]);
        }
      }
    }
  } else {
    struct alignas(16) Four {
      float x[4];
    };
    struct alignas(8) Two {
      float x[2];
    };
    const uint32_t group = lane / 4, pair = lane % 4 * 2;
#pragma unroll 2
    for (int chunk = 0; chunk < kDepth / 4; ++chunk) {
      Four left[C::kRowTiles][2];
#pragma unroll
      for (int m = 0; m < C::kRowTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t own = row + 16 * m + 8 * half + group;
          if constexpr (kLeftAcross) {
#pragma unroll
            for (int i = 0; i < 4; ++i) left[m][half].x[i] = load<float>(a.element(4 * chunk + i, own));
          } else {
            left[m][half] = load<Four>(a.at(own, chunk));
          }
        }
#pragma unroll
      for (int n = 0; n < C::kColumnTiles; ++n) {
        const uint32_t own = column + 8 * n + pair;
        Four right[2];
        if constexpr (kRightAcross) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const Two both = load<Two>(b.element(4 * chunk + i, own));
            right[0].x[i] = both.x[0];
            right[1].x[i] = both.x[1];
          }
        } else {
          right[0] = load<Four>(b.at(own, chunk));
          right[1] = load<Four>(b.at(own + 1, chunk));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int m = 0; m < C::kRowTiles; ++m)
#pragma unroll
            for (int j = 0; j < 4; ++j) c.at[m][n][j] = fused(left[m][j / 2].x[i], right[j % 2].x[i], c.at[m][n][j]);
      }
    }
  }
}

/// Warps have 32 rows and 64 columns of the result each. `kChain`: so many steps of the depth are added up at a time, and
/// those sums in order; 0: all in one chain.
template <class T_, int kRowWarps, int kColumnWarps, bool kLeftAcross, bool kRightAcross, int kChain>
struct BlockProduct {
  using T = T_;
  static constexpr int kThreads = 32 * kRowWarps * kColumnWarps, kStages = 2;
  static constexpr int kRows = 32 * kRowWarps, kColumns = 64 * kColumnWarps;
  /// Blocks that share a multiprocessor at least: two of the wide ones, where a chain leaves them the registers.
  static constexpr int kBlocks = kThreads == 256 && sizeof(T) == 2 && kChain == 0 ? 2 : 1;
  static constexpr int kDepth = 128 / static_cast<int>(sizeof(T));  // of a step

  using Left = Tile<T, kLeftAcross ? kDepth : kRows, kLeftAcross ? kRows : kDepth>;
  using Right = Tile<T, kRightAcross ? kDepth : kColumns, kRightAcross ? kColumns : kDepth>;
  using Sums = Accumulator<2, 8>;

  static constexpr int kStageBytes = Left::kBytes + Right::kBytes;
  static constexpr int kPitch = kColumns + 8;  // numbers from row to row: the rows of a fragment lie in different banks
  static constexpr int kSharedBytes = larger(kStages * kStageBytes, 4 * kRows * kPitch);

  Shared memory;

  MMK_DEVICE Left left(int stage) const { return {memory + stage * kStageBytes}; }
  MMK_DEVICE Right right(int stage) const { return {memory + (stage * kStageBytes + Left::kBytes)}; }
  MMK_DEVICE Shared sum_at(int row, int column) const { return memory + 4 * (row * kPitch + column); }

  /// `stage(left, right)` fills the tiles of the next step, `steps` times; afterwards the sums are at sum_at, for all
  /// threads.
  template <class Stage>
  MMK_DEVICE void run(int steps, const Stage& stage) const {
    const uint32_t row = warp_index() / kColumnWarps * 32, column = warp_index() % kColumnWarps * 64;
    Sums sums, total;
    sums.clear();
    total.clear();
    if (steps > 0) stage(left(0), right(0));
    commit_copies();
    for (int i = 0; i < steps; ++i) {
      const int now = i % kStages;
      wait_copies<0>();
      sync_block();
      if (i + 1 < steps) stage(left(now ^ 1), right(now ^ 1));
      commit_copies();
      add_product<kLeftAcross, kRightAcross>(sums, left(now), row, right(now), column);
      if constexpr (kChain > 0) {
        if ((i + 1) % kChain == 0) merge(total, sums);
      }
    }
    if constexpr (kChain > 0) {
      merge(total, sums);
      write(total, row, column);
    } else {
      write(sums, row, column);
    }
  }

  MMK_DEVICE static void merge(Sums& total, Sums& sums) {
#pragma unroll
    for (int m = 0; m < Sums::kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < Sums::kColumnTiles; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) total.at[m][n][j] += sums.at[m][n][j];
    sums.clear();
  }

  MMK_DEVICE void write(const Sums& sums, int row, int column) const {
    struct alignas(8) Two {
      float x[2];
    };
    const int group = lane_index() / 4, pair = lane_index() % 4 * 2;
    sync_block();  // the last tiles have been read
#pragma unroll
    for (int m = 0; m < Sums::kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < Sums::kColumnTiles; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          store(sum_at(row + 16 * m + 8 * half + group, column + 8 * n + pair),
                Two{sums.at[m][n][2 * half], sums.at[m][n][2 * half + 1]});
    sync_block();
  }
};

/// How many of the rows from `first` on, of `total`, a tile of `size` has.
MMK_DEVICE int rows_left(int64_t total, int64_t first, int size) {
  return static_cast<int>(smaller<int64_t>(larger<int64_t>(total - first, 0), size));
}

/// The chunks of a tile that this thread stages: one column of chunks, every kDown-th row.
template <class Tile, int kThreads>
struct OwnChunks {
  static constexpr int kDown = kThreads / Tile::kChunks, kCount = Tile::kRows / kDown;
  static_assert(kDown > 0 && kDown * kCount == Tile::kRows && kDown * Tile::kChunks == kThreads, "equal shares");

  MMK_DEVICE static int row(int i) { return thread_index() / Tile::kChunks + i * kDown; }
  MMK_DEVICE static int chunk() { return thread_index() % Tile::kChunks; }
  MMK_DEVICE static int column() { return chunk() * Tile::kChunkElements; }
};

/// Fills a tile with rows of which that of number i of this thread starts at `data + offset(i)`: columns [first, width) of
/// them, zeros beyond, and in rows from `count` on. Every chunk is aligned, and inside or outside of [first, width). Of what
/// is outside no address is asked, unless offsets are `kCheap`: cheaper than not to ask.
template <int kThreads, bool kCheap, class Tile, class Offset>
MMK_DEVICE void stage_whole_rows(Tile tile, Global<const typename Tile::T> data, const Offset& offset, int count,
                                 int64_t first, int64_t width) {
  using Own = OwnChunks<Tile, kThreads>;
  const int64_t column = first + Own::column();
  const bool in_width = column < width;
#pragma unroll
  for (int i = 0; i < Own::kCount; ++i) {
    const bool inside = Own::row(i) < count && in_width;
    copy16_async(tile.at(Own::row(i), Own::chunk()), data + (kCheap || inside ? offset(i) + column : 0), inside);
  }
}

/// The same for rows of any alignment and width; not asynchronous.
template <int kThreads, class Tile, class Offset>
MMK_DEVICE void stage_any_rows(Tile tile, Global<const typename Tile::T> data, const Offset& offset, int count,
                               int64_t first, int64_t width) {
  using Own = OwnChunks<Tile, kThreads>;
  const int64_t column = first + Own::column();
#pragma unroll 1
  for (int i = 0; i < Own::kCount; ++i) {
    const bool inside = Own::row(i) < count && column < width;
    const int64_t left = inside ? smaller<int64_t>(width - column, Tile::kChunkElements) : 0;
    copy_chunk(tile.at(Own::row(i), Own::chunk()), data + (inside ? offset(i) + column : 0), static_cast<int>(left));
  }
}

template <int kThreads, bool kCheap, class Tile, class Offset>
MMK_DEVICE void stage_rows(Tile tile, Global<const typename Tile::T> data, const Offset& offset, int count,
                           int64_t first, int64_t width, bool whole) {
  if (whole) return stage_whole_rows<kThreads, kCheap>(tile, data, offset, count, first, width);
  stage_any_rows<kThreads>(tile, data, offset, count, first, width);
}

MMK_NAMESPACE_END
