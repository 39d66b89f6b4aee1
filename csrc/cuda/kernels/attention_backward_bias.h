// Gradient of a part of the bias: the gradients of the biased logits, summed over all pairs that read an element.
//
// A block of threads owns an element's batch entry and head (or all, where the bias is broadcast), a tile of rows (or
// all), and a window of entries, which are keys, places of a table or coordinates of a grid, and visits every tile of
// pairs that reads one of them, in a fixed order: batch entries, heads, tiles of rows, keys. The logits' gradients are
// made as in the query pass and put where the addends were, and each thread adds up those of its own entry: a sum of every
// (row of the tile, entry) in shared memory, in places that no other thread reads. So every element is written once, by one
// thread, whatever the kind of bias.
#pragma once

#include "attention_backward_query.h"

MMK_NAMESPACE_BEGIN

template <class T, int kDim, int kWarps, int kKeys>
struct AttentionBackwardBias : AttentionBackwardQuery<T, kDim, kWarps, kKeys, true> {
  using Pass = AttentionBackwardQuery<T, kDim, kWarps, kKeys, true>;
  using Pass::call, Pass::place, Pass::kRows, Pass::kThreads, Pass::key, Pass::value, Pass::query, Pass::grad_out;
  using typename Pass::Pairs, typename Pass::Source;

  static constexpr int kWindow = kThreads < 64 ? kThreads : 64, kGroups = kThreads / kWindow;
  static constexpr int kOwnRows = kRows / kGroups;
  static constexpr int kSumBytes = Pass::kSharedBytes, kSharedBytes = kSumBytes + 4 * kRows * kWindow;
  static_assert(kSharedBytes <= 99 * 1024, "what a block may have on every architecture");

  int64_t size[4];  // of the gradient
  int part, window, entry;

  MMK_DEVICE explicit AttentionBackwardBias(const AttentionBackwardCall& c) : Pass(c) {}

  /// The sum of this thread's row i.
  MMK_DEVICE Shared sum_at(int i) const { return this->memory + (kSumBytes + 4 * (i * kThreads + thread_index())); }

  MMK_DEVICE int width() const { return static_cast<int>(call.problem.bias.size[1][3]); }

  /// The keys of a row that read an entry: first, first + step ... below stop.
  struct EntryKeys {
    int first, step, stop;
  };
  MMK_DEVICE EntryKeys keys_of(int query) const {
    const BiasView& b = call.problem.bias;
    if (b.kind == BiasKind::kRelative) {
      const int key = entry + query - static_cast<int>(b.zero);
      return {key, 1, key + 1};
    }
    if (b.kind == BiasKind::kDense) return size[3] > 1 ? EntryKeys{entry, 1, entry + 1} : EntryKeys{0, 1, INT32_MAX};
    return part == 0 ? EntryKeys{entry * width(), 1, (entry + 1) * width()} : EntryKeys{entry, width(), INT32_MAX};
  }

  /// Whether the tile of rows and the keys [first, last] have a pair that reads an entry of the window.
  MMK_DEVICE bool touches(int first, int last) const {
    const BiasView& b = call.problem.bias;
    const auto meets = [&](int from, int to) { return from < window + kWindow && to >= window; };
    if (b.kind == BiasKind::kRelative) {
      const int zero = static_cast<int>(b.zero), row = place.tile * kRows;
      return meets(first - (row + kRows - 1) + zero, last - row + zero);
    }
    if (b.kind == BiasKind::kDense) return size[3] == 1 || meets(first, last);
    if (part == 0) return meets(first / width(), last / width());
    const int from = first % width(), to = last % width();
    if (last - first + 1 >= width()) return true;
    return from <= to ? meets(from, to) : meets(from, width() - 1) || meets(0, to);
  }

  /// Adds the tile of gradients, of keys from `first` on, to this thread's sums.
  MMK_DEVICE void add_tile(int first) {
    const int group = thread_index() / kWindow;
#pragma unroll 1
    for (int i = 0; i < kOwnRows; ++i) {
      const int row = group + i * kGroups;
      const EntryKeys keys = keys_of(place.tile * kRows + row);
      const int behind = first - keys.first;
      int key = behind <= 0 ? keys.first : keys.first + (behind + keys.step - 1) / keys.step * keys.step;
      float sum = load<float>(sum_at(i));
      for (const int stop = smaller(keys.stop, first + kKeys); key < stop; key += keys.step)
        sum += load<float>(this->addend_at(row, key - first));
      store(sum_at(i), sum);
    }
  }

  /// One tile of pairs.
  MMK_DEVICE void visit(const Source& source, int first) {
    if (!this->block_sees(first)) return;
    this->copy_block(source, 0, first);
    commit_copies();
    wait_copies<0>();
    sync_block();
    Pairs s, dp;
    rows_by_rows(dp, grad_out(), warp_index() * 16, value(0));
    rows_by_rows(s, query(), warp_index() * 16, key(0));
    this->stage_addends(source, first);
    this->template finish<false, false>(s, dp, source, first);
    const int pair = lane_index() % 4 * 2;
#pragma unroll
    for (int n = 0; n < Pairs::kColumnTiles; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        store(this->addend_at(this->row_in_tile(j / 2), 8 * n + pair + j % 2), dp.at[0][n][j]);
    sync_block();
    add_tile(source.offset + first);
  }

  /// All that reads the window in one tile of rows.
  MMK_DEVICE void rows() {
    commit_copies();
    wait_copies<0>();
    sync_block();  // the tiles before have landed and been read
    this->begin();
    for (int s = 0; s < call.problem.num_segments; ++s) {
      const Source source = key_source<T>(this->call, this->place, s);
      this->look_at(s, source);
      for (int first = 0; first < source.length; first += kKeys) {
        const int last = smaller(first + kKeys, source.length) - 1;
        if (touches(source.offset + first, source.offset + last)) visit(source, first);
      }
    }
  }

  MMK_DEVICE void write(int64_t row, int64_t first_row, float x) const {
    const BiasView& b = call.problem.bias;
    if (row >= size[2] || entry >= size[3]) return;
    const int64_t at = (first_row + row) * size[3] + entry;
    if (b.dtype[part] == DType::kFloat32) {
      store(global<float>(b.grad[part]) + at, x);
    } else if (b.dtype[part] == DType::kFloat16) {
      store(global<Half>(b.grad[part]) + at, narrow<Half>(x));
    } else {
      store(global<BFloat16>(b.grad[part]) + at, narrow<BFloat16>(x));
    }
  }

  /// The sums of this thread, or, without a row axis, those of all rows in order.
  MMK_DEVICE void end(int tile, int64_t first_row) const {
    const int group = thread_index() / kWindow, own = thread_index() % kWindow;
    if (size[2] > 1) {
#pragma unroll 1
      for (int i = 0; i < kOwnRows; ++i)
        write(static_cast<int64_t>(tile) * kRows + group + i * kGroups, first_row, load<float>(sum_at(i)));
      return;
    }
    float total = 0.0f;
#pragma unroll 1
    for (int i = 0; i < kOwnRows; ++i) total += load<float>(sum_at(i));
    sync_block();  // the last tile has been read
    const auto place_of = [&](int g) { return this->memory + 4u * (g * kWindow + own); };
    store(place_of(group), total);
    sync_block();
    if (group != 0) return;
    for (int g = 1; g < kGroups; ++g) total += load<float>(place_of(g));
    write(0, first_row, total);
  }

  MMK_DEVICE void run() {
    const AttentionProblem& p = call.problem;
    this->memory = shared_memory();
    this->dense_mask = has_dense_mask(p.mask);
    part = call.part;
#pragma unroll
    for (int axis = 0; axis < 4; ++axis) size[axis] = p.bias.size[part][axis];
    int64_t index = block_index_x();
    const int64_t windows = ceil_div(size[3], kWindow), tiles = ceil_div(size[2], kRows);
    window = static_cast<int>(index % windows) * kWindow;
    const int own_tile = static_cast<int>(index / windows % tiles);
    const int owner = static_cast<int>(index / windows / tiles), own_head = owner % static_cast<int>(size[1]);
    const int own_batch = owner / static_cast<int>(size[1]);
    entry = window + thread_index() % kWindow;
#pragma unroll 1
    for (int i = 0; i < kOwnRows; ++i) store(sum_at(i), 0.0f);

    place = Place{0, 0, 0, 0, 0, 0, static_cast<int>(p.len_q), static_cast<int>(p.len_k), true};
    const int batches = size[0] == 1 ? static_cast<int>(p.batch) : 1,
              heads = size[1] == 1 ? static_cast<int>(p.heads_q) : 1;
    for (int b = 0; b < batches; ++b) {
      place.batch = own_batch + b;
      if (p.cu_q != nullptr) {
        sequence_rows(p.cu_q, place.batch, p.len_q, place.query_first, place.len_q);
        sequence_rows(p.cu_k, place.batch, p.len_k, place.key_first, place.len_k);
      }
      const int all_tiles = static_cast<int>(ceil_div(place.len_q, kRows));
      const int first_tile = size[2] > 1 ? own_tile : 0, last_tile = size[2] > 1 ? own_tile + 1 : all_tiles;
      for (int h = 0; h < heads; ++h) {
        place.head = own_head + h;
        for (place.tile = first_tile; place.tile < smaller(last_tile, all_tiles); ++place.tile) rows();
      }
    }
    commit_copies();
    wait_copies<0>();
    end(own_tile, (static_cast<int64_t>(own_batch) * size[1] + own_head) * size[2]);
  }
};

MMK_NAMESPACE_END
