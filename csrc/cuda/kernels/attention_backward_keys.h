// Gradients of keys and values, from what attention_delta.h left of every row.
//
//   s^T = k q^T    weight^T = exp(logit(s^T) - lse)    dP^T = v dO^T    dS^T = weight^T (dropped dP^T - delta)
//   dv = dropped weight^T dO                           dk = scale dS^T q
//
// A block of threads has a tile of keys of one segment, batch entry and key head, each warp 16 of them, and walks the
// tiles of kQueries queries that see some of its keys, of every head that reads them. The roles of the query pass are
// exchanged: rows of a fragment are keys, columns are queries, so that both second products find their left operand in
// the registers where it was made. k and v (where dk is wanted) are in shared memory, and a ring of two pairs of q and dO
// tiles.
//
// Sums are made in chunks of kChunkRows rows of one head, and the chunks are added in order: of batch entries (where the
// keys are broadcast along the batch), heads, rows. Sums so far rest in device memory. What the rows of a chunk see and
// their statistics are put into shared memory at its start, where warps also find out which tiles to visit.
//
// Tiles that are not seen whole test every pair, as in the query pass.
#pragma once

#include "../tile/gradients.h"

MMK_NAMESPACE_BEGIN

/// The tile of keys of a block. Such things are in shared memory and read where they are needed: registers are for the sums.
struct alignas(16) KeyPlace {
  int segment, tile, last_batch, dense_mask;
};
/// The keys of its segment.
struct alignas(16) KeyRows {
  int first, length, offset, unused;  // first: of a packed sequence, in its tensor
};
/// The key head, the query heads that read it, from the first to before `stop`, and the block's number.
struct alignas(16) KeyHeads {
  int key, first, stop, block;
};
/// The rows of queries that are walked, of one batch entry and head.
struct alignas(16) KeyQueries {
  int first, length, batch, head;  // first: of a packed sequence, in its tensor
};

/// kKey, kValue: which gradients it makes. kGeneral: as in the query pass.
template <class T_, int kDim_, int kWarps_, int kQueries_, bool kGeneral_, bool kKey_, bool kValue_>
struct AttentionBackwardKeys {
  using T = T_;
  static constexpr int kDim = kDim_, kWarps = kWarps_, kQueries = kQueries_, kThreads = 32 * kWarps,
                       kRows = 16 * kWarps;
  static constexpr bool kGeneral = kGeneral_, kKey = kKey_, kValue = kValue_;
  static constexpr int kChunkRows = 256, kChunkTiles = kChunkRows / kQueries;

  using KeyTile = Tile<T, kRows, kDim>;
  using QueryTile = Tile<T, kQueries, kDim>;
  using Pairs = Accumulator<1, kQueries / 8>;
  using Gradient = Accumulator<1, kDim / 8>;

  static constexpr int kOwnBytes = (kKey ? 2 : 1) * KeyTile::kBytes;  // without dk nothing asks for v
  static constexpr int kRingBytes = kOwnBytes + 4 * QueryTile::kBytes;
  static constexpr int kStatisticsBytes = kRingBytes + 16 * kChunkRows;  // after what the rows see
  static constexpr int kPlaceBytes = kStatisticsBytes + 16 * kChunkRows + (8 * kWarps + 15) / 16 * 16;
  static constexpr int kInfoBytes = kPlaceBytes + 64;
  static constexpr int kAddendStride = kQueries + 8;
  static constexpr int kSharedBytes = kInfoBytes + (kGeneral ? 4 * kRows * kAddendStride : 0);
  static_assert(kSharedBytes <= 99 * 1024, "what a block may have on every architecture");
  static constexpr int kStateNumbers = kThreads * kDim / 2 * (kKey + kValue);

  const AttentionBackwardCall& call;
  Shared memory;
  Gradient grad_key, grad_value;

  MMK_DEVICE explicit AttentionBackwardKeys(const AttentionBackwardCall& c) : call(c) {}

  MMK_DEVICE KeyPlace place() const { return load<KeyPlace>(memory + kPlaceBytes); }
  MMK_DEVICE KeyRows keys() const { return load<KeyRows>(memory + (kPlaceBytes + 16)); }
  MMK_DEVICE KeyHeads heads() const { return load<KeyHeads>(memory + (kPlaceBytes + 32)); }
  MMK_DEVICE KeyQueries queries() const { return load<KeyQueries>(memory + (kPlaceBytes + 48)); }
  MMK_DEVICE Shared batch_at() const { return memory + (kPlaceBytes + 56); }
  MMK_DEVICE Shared head_at() const { return memory + (kPlaceBytes + 60); }
  MMK_DEVICE Global<float> rest() const {
    return global<float>(static_cast<void*>(call.scratch)) + static_cast<int64_t>(heads().block) * kStateNumbers;
  }
  MMK_DEVICE KeyTile key() const { return {memory}; }
  MMK_DEVICE KeyTile value() const { return {memory + KeyTile::kBytes}; }
  MMK_DEVICE QueryTile query(int stage) const { return {memory + (kOwnBytes + stage * 2 * QueryTile::kBytes)}; }
  MMK_DEVICE QueryTile grad_out(int stage) const { return {query(stage).base + QueryTile::kBytes}; }
  MMK_DEVICE Shared info_at(int row) const { return memory + (kRingBytes + 16 * row); }
  MMK_DEVICE Shared statistics_at(int row) const { return memory + (kStatisticsBytes + 16 * row); }
  /// The plain kernel has the rows' shifts times -log2(e), and of every two rows -delta as the products start from it.
  MMK_DEVICE Shared shift_at(int row) const { return memory + (kStatisticsBytes + 4 * row); }
  MMK_DEVICE Shared deltas_at(int row) const { return memory + (kStatisticsBytes + 4 * kChunkRows + 8 * row); }
  MMK_DEVICE Shared addend_at(int row, int column) const {
    return memory + (kInfoBytes + 4 * (row * kAddendStride + column));
  }

  /// Puts the block's place into shared memory; false beyond the last tile.
  MMK_DEVICE bool find_place() {
    const AttentionProblem& p = call.problem;
    int64_t index = block_index_x();
    KeyPlace place;
    int head;
    Place at{0, 0, 0, 0, 0, 0, static_cast<int>(p.len_q), 0, true};
    if (p.cu_k != nullptr) {
      place.segment = 0;
      head = static_cast<int>(index / call.tiles);
      int tile = static_cast<int>(index % call.tiles);
      for (;; ++at.batch) {
        if (at.batch == p.batch) return false;
        sequence_rows(p.cu_k, at.batch, p.len_k, at.key_first, at.len_k);
        const int tiles = static_cast<int>(ceil_div(at.len_k, kRows));
        if (tile < tiles) break;
        tile -= tiles;
      }
      place.tile = tile;
      sequence_rows(p.cu_q, at.batch, p.len_q, at.query_first, at.len_q);
      place.last_batch = at.batch;
    } else {
      for (place.segment = 0;; ++place.segment) {
        if (place.segment == p.num_segments) return false;
        const Segment& segment = call.segments[place.segment];
        const int64_t tiles = ceil_div(segment.length, kRows), batches = gradient_batches(segment);
        if (index >= tiles * batches * p.heads_k) {
          index -= tiles * batches * p.heads_k;
          continue;
        }
        place.tile = static_cast<int>(index % tiles);
        head = static_cast<int>(index / tiles % p.heads_k);
        at.batch = static_cast<int>(index / tiles / p.heads_k);
        place.last_batch = batches == 1 ? static_cast<int>(p.batch) - 1 : at.batch;
        break;
      }
    }
    place.dense_mask = kGeneral && has_dense_mask(p.mask) ? 1 : 0;
    const int group = static_cast<int>(p.heads_q / p.heads_k);
    if (thread_index() == 0) {
      store(memory + kPlaceBytes, place);
      store(memory + (kPlaceBytes + 16), KeyRows{at.key_first, segment_length(call, at, place.segment),
                                                 static_cast<int>(call.segments[place.segment].offset), 0});
      store(memory + (kPlaceBytes + 32), KeyHeads{head, head * group, (head + 1) * group, block_index_x()});
      store(memory + (kPlaceBytes + 48), KeyQueries{at.query_first, at.len_q, at.batch, 0});
    }
    sync_block();
    return true;
  }
  /// Batch entries of the gradient; a launch that makes both has segments where they agree.
  MMK_DEVICE int64_t gradient_batches(const Segment& segment) const {
    return call.wants_key ? segment.key_batches : segment.value_batches;
  }

  /// The tiles of keys in the present batch entry.
  MMK_DEVICE void begin() {
    const AttentionProblem& p = call.problem;
    const KeyPlace own = place();
    const KeyRows rows = keys();
    const int batch = load<int>(batch_at());
    const Segment& segment = call.segments[own.segment];
    const int first = own.tile * kRows, count = rows.length - first;
    const auto copy = [&](KeyTile tile, const TensorView& view, int64_t dim) {
      const Global<const T> data = rows_of<T>(view, batch, heads().key, rows.first);
      copy_rows<kThreads, !kGeneral>(tile, Rows<T>::of(data, view.row, dim), first, count);
    };
    copy(key(), segment.key, p.dim_qk);
    if constexpr (kKey) copy(value(), segment.value, p.dim_v);
  }

  /// Where the tiles of queries come from.
  struct QuerySource {
    Rows<T> queries, gradients;
    int length;
  };
  MMK_DEVICE QuerySource query_source() const {
    const AttentionProblem& p = call.problem;
    const KeyQueries own = queries();
    return {Rows<T>::of(rows_of<T>(p.query, own.batch, own.head, own.first), p.query.row, p.dim_qk),
            Rows<T>::of(rows_of<T>(p.grad_out, own.batch, own.head, own.first), p.grad_out.row, p.dim_v), own.length};
  }
  MMK_DEVICE void copy_tile(const QuerySource& source, int stage, int first) const {
    copy_rows<kThreads, !kGeneral>(query(stage), source.queries, first, source.length - first);
    copy_rows<kThreads, !kGeneral>(grad_out(stage), source.gradients, first, source.length - first);
  }

  MMK_DEVICE void store_statistics(int row, const RowStatistics& statistics) const {
    if constexpr (kGeneral) {
      store(statistics_at(row), statistics);
    } else {
      store(shift_at(row), -statistics.shift * kLog2E);
      const Shared own = deltas_at(row / 2 * 2) + row % 2 * 4;
      store(own, -statistics.delta);
      store(own + 8, -statistics.delta);
    }
  }

  /// Puts what the rows from `start` on see, and their statistics, into shared memory; which tiles some of them see
  /// some of this block's keys from, and which tiles see all of them.
  MMK_DEVICE Blocks look_at(int head, int start) const {
    const KeyPlace block = place();
    const int length = keys().length, first = block.tile * kRows, last = smaller(first + kRows, length);
    Blocks own{0u, 0xffffffffu};
    // its head is that of the chunk before
    const KeyQueries walked = queries();
    sync_block();  // those of the chunk before have been read
    if (thread_index() == 0) store(head_at(), head);
    const Place now{walked.batch, head, 0, 0, walked.first, 0, walked.length, length, true};
#pragma unroll 1
    for (int i = thread_index(); i < kChunkRows; i += kThreads) {
      const QueryRow row{head, start + i, start + i < walked.length};
      const Interval sees = interval_of(call, now, block.segment, row, length);
      store(info_at(i), SeenRow{row.inside ? row.head : -1, row.query, sees});
      store_statistics(i, statistics_of(call, now, row));
      const uint32_t tile = 1u << i / kQueries;
      if (larger(sees.start, first) < smaller(sees.stop, last)) own.some |= tile;
      if (sees.start > first || sees.stop < last) own.full &= ~tile;
    }
    if (kGeneral && (call.problem.bias.kind != BiasKind::kNone || block.dense_mask != 0)) own.full = 0u;
    const Blocks all =
        share_blocks<kWarps>({warp_or(own.some), warp_and(own.full)}, memory + (kStatisticsBytes + 16 * kChunkRows));
    if constexpr (kWarps == 1) sync_warp();
    return all;
  }

  /// Bias and mask of this warp's keys for the tile of queries `tile` of the chunk, two queries at a time. What was there
  /// has been read: the ring has a barrier of the block before every tile.
  MMK_DEVICE void stage_addends(int tile) const {
    const KeyPlace block = place();
    const int batch = load<int>(batch_at());
    const int own = warp_index() * 16 + lane_index() % 16, local = block.tile * kRows + own, offset = keys().offset;
#pragma unroll 1
    for (int column = lane_index() / 16; column < kQueries; column += 2) {
      const SeenRow row = load<SeenRow>(info_at(tile * kQueries + column));
      const RowBias bias = bias_of(call.problem, batch, row);
      store(addend_at(own, column), addend_of(call.problem, block.dense_mask != 0, batch, row, bias, offset, local));
    }
    sync_warp();
  }

  /// Weights and gradients of the lane's logits, in place.
  template <bool kFull>
  MMK_DEVICE void finish(Pairs& s, Pairs& dp, int start, int tile) const {
    const AttentionProblem& p = call.problem;
    const int pair = lane_index() % 4 * 2;
    const Shared addends = addend_at(warp_index() * 16 + lane_index() / 4, pair);
    uint32_t kept = 0xffffffffu;
    if (p.dropout.active) {
      const Dropout& d = p.dropout;
      const KeyQueries own = queries();
      const DropoutKey dropout = DropoutKey::of(d, own.batch);
      kept = kept_of_columns<Pairs>(dropout, static_cast<uint32_t>(own.head + d.offset[1]),
                                    start + tile * kQueries + d.offset[2],
                                    keys().offset + place().tile * kRows + warp_index() * 16 + d.offset[3]);
    }
#pragma unroll
    for (int n = 0; n < Pairs::kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 8 * n + pair + e;
        const RowStatistics row = load<RowStatistics>(statistics_at(tile * kQueries + column));
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int j = 2 * r + e;
          const float addend = kFull ? 0.0f : load<float>(addends + 4 * (8 * r * kAddendStride + 8 * n + e));
          pair_step<!kFull>(p, s.at[0][n][j], dp.at[0][n][j], row, addend, addend == -INFINITY,
                            (kept >> (4 * n + j) & 1) != 0);
        }
      }
    }
  }

  /// The same of the plain kernel.
  template <bool kFull>
  MMK_DEVICE void finish_plain(Pairs& s, Pairs& dp, int tile) const {
    struct alignas(8) Two {
      float x[2];
    };
    const int pair = lane_index() % 4 * 2;
    const int own = kFull ? 0 : place().tile * kRows + warp_index() * 16 + lane_index() / 4;
    const float log2_scale = call.problem.scale * kLog2E;
#pragma unroll
    for (int n = 0; n < Pairs::kColumnTiles; ++n) {
      const int first = tile * kQueries + 8 * n + pair;
      const Two shift = load<Two>(shift_at(first));
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        Interval sees{};
        if constexpr (!kFull) sees = load<SeenRow>(info_at(first + e)).sees;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int key = own + 8 * r, j = 2 * r + e;
          plain_pair_step<!kFull>(log2_scale, s.at[0][n][j], dp.at[0][n][j], shift.x[e],
                                  key < sees.start || key >= sees.stop);
        }
      }
    }
  }

  template <bool kFull>
  MMK_DEVICE void step(int stage, int start, int tile) {
    Pairs s, dp;
    start_gradients(dp, tile);
    if constexpr (kKey) rows_by_rows<true>(dp, value(), warp_index() * 16, grad_out(stage));
    rows_by_rows(s, key(), warp_index() * 16, query(stage));
    if constexpr (kGeneral) {
      if constexpr (!kFull) stage_addends(tile);
      finish<kFull>(s, dp, start, tile);
    } else {
      finish_plain<kFull>(s, dp, tile);
    }
    if constexpr (kValue) accumulate<!kFull>(grad_value, s, grad_out(stage));
    if constexpr (kKey) accumulate<!kFull>(grad_key, dp, query(stage));
  }

  /// What the sums of dP start from: 0, or -delta in the plain kernel.
  MMK_DEVICE void start_gradients(Pairs& dp, int tile) const {
    struct alignas(16) Four {
      float x[4];
    };
    dp.clear();
    if constexpr (!kGeneral && kKey) {
#pragma unroll
      for (int n = 0; n < Pairs::kColumnTiles; ++n) {
        const Four deltas = load<Four>(deltas_at(tile * kQueries + 8 * n + lane_index() % 4 * 2));
#pragma unroll
        for (int j = 0; j < 4; ++j) dp.at[0][n][j] = deltas.x[j];
      }
    }
  }

  /// The tiles of the rows from `start` on of one head; false where none of them sees any of the keys.
  MMK_DEVICE bool chunk(int head, int start) {
    const Blocks all = look_at(head, start);
    uint32_t left = all.some;
    if (left == 0) return false;
    grad_key.clear();
    grad_value.clear();
    // a general kernel has no registers for it either
    const QuerySource source = query_source();
    const auto copy = [&](int to, int tile) {
      copy_tile(kGeneral ? query_source() : source, to, start + tile * kQueries);
    };
    copy(0, lowest_bit(left));
    commit_copies();
    int stage = 0;
    const auto next = [&] {
      wait_copies<0>();
      sync_block();
      const int tile = lowest_bit(left);
      left &= left - 1;
      if (left != 0) copy(stage ^ 1, lowest_bit(left));
      commit_copies();
      return tile;
    };
    while (left != 0) {
      while ((all.full & left & -left) != 0) {
        const int tile = next();
        step<true>(stage, start, tile);
        stage ^= 1;
      }
      if (left == 0) break;
      const int tile = next();
      step<false>(stage, start, tile);
      stage ^= 1;
    }
    return true;
  }

  MMK_DEVICE void write(const Gradient& gradient, const TensorView& view, int64_t batches, int64_t dim,
                        float by) const {
    if (view.data == nullptr) return;
    const KeyPlace own = place();
    const KeyRows rows = keys();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = own.tile * kRows + warp_index() * 16 + 8 * r + lane_index() / 4;
      if (row >= rows.length) continue;
      const int64_t batch = batches == 1 ? 0 : load<int>(batch_at());
      const int64_t to = batch * view.batch + heads().key * view.head + (rows.first + row) * view.row;
      write_row(gradient, r, global<T>(view.data) + to, static_cast<int>(dim), by);
    }
  }

  MMK_DEVICE void run() {
    const AttentionProblem& p = call.problem;
    memory = shared_memory();
    if (!find_place()) return;
    bool some = false;
    grad_key.clear();
    grad_value.clear();
    for (;;) {
      begin();
      for (int head = heads().first; head < heads().stop; ++head) {
        for (int start = 0; start < queries().length; start += kChunkRows) {
          if (!chunk(head, start) || call.scratch == nullptr) continue;
          constexpr int kBehind = kKey ? kThreads * kDim / 2 : 0;
          if constexpr (kKey) add_to_saved<kThreads>(grad_key, rest(), some);
          if constexpr (kValue) add_to_saved<kThreads>(grad_value, rest() + kBehind, some);
          some = true;
        }
      }
      commit_copies();
      wait_copies<0>();
      const int batch = load<int>(batch_at());
      if (batch >= place().last_batch) break;
      sync_block();  // this entry's tiles have been read
      if (thread_index() == 0) store(batch_at(), batch + 1);
      sync_block();
    }
    const Segment& segment = call.segments[place().segment];
    if constexpr (kKey) {
      if (call.wants_key) write(grad_key, segment.grad_key, segment.key_batches, p.dim_qk, p.scale);
    }
    if constexpr (kValue) {
      const float kept = kGeneral && p.dropout.active ? p.dropout.keep_scale : 1.0f;
      if (call.wants_value) write(grad_value, segment.grad_value, segment.value_batches, p.dim_v, kept);
    }
  }
};

MMK_NAMESPACE_END
