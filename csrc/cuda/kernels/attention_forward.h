// Attention forward on the tensor cores, and in exact fp32 (Dao et al., "FlashAttention-2", 2023).
//
//   out = dropout(softmax(scale q k^T + bias, masked)) v        lse = log sum exp of the same logits
//
// A block of threads has a tile of query rows, each warp 16 kRowTiles of them, and walks the blocks of kKeys keys that some
// row sees, in chunks of kChunkBlocks blocks. Logits, weights and output stay in registers; the query tile and a ring of
// kStages pairs of key and value tiles are in shared memory, filled by asynchronous copies: while one pair is multiplied
// the next ones arrive. One barrier a pair says both that it has landed for all threads and that its predecessor's place
// in the ring is free.
//
// A chunk starts from an empty state, and the chunks of a row are merged in order, so that blocks of threads that have a
// chunk each (few queries: splits) and one that walks them all agree bit for bit. Between chunks the merged state rests in
// device memory, each number where its own thread put it.
//
// Blocks that a row sees whole have no element test. In the others masked logits become -inf, and should the values hold
// a NaN or infinity, rows that do not see it are kept clean (product.h, add_poison).
#pragma once

#include "../tile/pairs.h"
#include "../tile/softmax.h"

MMK_NAMESPACE_BEGIN

/// kGeneral: with softcap, bias, dense mask, dropout, or a scale that is not positive; without it those cost nothing.
/// kWhole: keys and values have whole chunks (tile.h).
template <class T_, int kDim_, int kRowTiles_, int kWarps_, int kKeys_, bool kGeneral_, bool kWhole_>
struct AttentionForward {
  using T = T_;
  static constexpr bool kWhole = kWhole_;
  static constexpr int kDim = kDim_, kRowTiles = kRowTiles_, kWarps = kWarps_, kKeys = kKeys_, kStages = 2;
  static constexpr bool kGeneral = kGeneral_;
  static constexpr int kThreads = 32 * kWarps, kRows = 16 * kRowTiles * kWarps;
  /// A chunk has about 1024 keys: what a block of a split works on.
  static constexpr int kChunkBlocks = 1024 / kKeys < 32 ? 1024 / kKeys : 32, kChunkKeys = kChunkBlocks * kKeys;
  /// Sums of weights come from the tensor core too: an eighth column tile instead of an addition a weight. They are sums of
  /// the rounded weights then, as the output is.
  static constexpr bool kSumByProduct = sizeof(T) == 2 && !kGeneral;

  using QueryTile = Tile<T, kRows, kDim>;
  using KeyTile = Tile<T, kKeys, kDim>;
  using Logits = Accumulator<kRowTiles, kKeys / 8>;
  using Output = Accumulator<kRowTiles, kDim / 8>;
  static_assert(kKeys <= 128, "a row's bits of dropout fill one word");

  static constexpr int kRingBytes = QueryTile::kBytes + 2 * kStages * KeyTile::kBytes;
  /// Such a thread's output takes half of its registers: what copies need is found anew for each.
  static constexpr bool kAnew = kDim == 256 && !kWhole;
  /// There and in plain kernels, whose loop leaves fewest, the block's place is in shared memory and read anew too.
  static constexpr bool kPlaceRests = kAnew || !kGeneral;
  static constexpr int kPlaceBytes = kRingBytes + 16 * kRows + (8 * kWarps + 15) / 16 * 16;
  static constexpr int kInfoBytes = kPlaceBytes + (kPlaceRests ? 32 : 0);
  static constexpr int kSharedBytes = kInfoBytes + (kGeneral ? 4 * (kRows * (kKeys + 8) - 8) : 0);
  static_assert(kSharedBytes <= 99 * 1024, "what a block may have on every architecture");
  /// Numbers of a tile's state in device memory: output, maximum and sum, thread by thread.
  static constexpr int kStateNumbers = kThreads * (kRowTiles * kDim / 2 + 4 * kRowTiles);

  const AttentionCall& call;
  Place own_place;  // unless it rests
  bool dense_mask;
  Shared memory;
  SoftmaxState<kRowTiles> state;
  float sum_tile[kRowTiles][4];
  Output out;

  MMK_DEVICE explicit AttentionForward(const AttentionCall& c) : call(c) {}

  MMK_DEVICE static int row_in_tile(int r) {
    return warp_index() * 16 * kRowTiles + r / 2 * 16 + r % 2 * 8 + lane_index() / 4;
  }

  MMK_DEVICE QueryTile query() const { return {memory}; }
  MMK_DEVICE KeyTile key(int stage) const { return {memory + (QueryTile::kBytes + stage * 2 * KeyTile::kBytes)}; }
  MMK_DEVICE KeyTile value(int stage) const { return {key(stage).base + KeyTile::kBytes}; }
  MMK_DEVICE Shared info_at(int r) const { return memory + (kRingBytes + 16 * row_in_tile(r)); }
  MMK_DEVICE SeenRow info(int r) const { return load<SeenRow>(info_at(r)); }
  MMK_DEVICE Place place() const {
    if constexpr (kPlaceRests) return load_place(memory + kPlaceBytes);
    return own_place;
  }

  /// Finds the place of this block and copies its queries; false where there are none.
  MMK_DEVICE bool begin() {
    own_place = query_place(call, kRows, call.splits);
    if (!own_place.inside) return false;
    if constexpr (kPlaceRests) {
      if (thread_index() == 0) store_place(memory + kPlaceBytes, own_place);
      sync_block();
    }
    if constexpr (kGeneral) dense_mask = has_dense_mask(call.problem.mask);
    copy_queries(own_place);
    return true;
  }

  MMK_DEVICE void copy_queries(const Place& place) const {
    const TensorView& view = call.problem.query;
    const Global<const T> data = rows_of<T>(view, place.batch, place.head, place.query_first);
    if (call.pack == 1) {
      const int first = place.tile * kRows;
      copy_rows<kThreads, false>(query(), Rows<T>::of(data, view.row, call.problem.dim_qk), first, place.len_q - first);
      return;
    }
    for (int i = thread_index(); i < kRows * QueryTile::kChunks; i += kThreads) {
      const int r = i / QueryTile::kChunks, chunk = i % QueryTile::kChunks;
      const QueryRow from = query_row(call, place, place.tile * kRows + r);
      const int left = from.inside ? static_cast<int>(call.problem.dim_qk) - chunk * QueryTile::kChunkElements : 0;
      const int64_t at = (from.head - place.head) * view.head + from.query * view.row;
      copy_chunk(query().at(r, chunk), data + (left > 0 ? at + chunk * QueryTile::kChunkElements : 0), left);
    }
  }

  using Source = KeySource<T>;

  MMK_DEVICE Source source(int s) const { return key_source<T>(call, place(), s); }

  MMK_DEVICE void copy_block(const Source& source, int stage, int first) const {
    copy_rows<kThreads, kWhole>(key(stage), source.keys, first, source.length - first);
    copy_rows<kThreads, kWhole>(value(stage), source.values, first, source.length - first);
  }

  /// What the rows of this warp see of segment s.
  MMK_DEVICE void look_at(int s, const Source& source) const {
    const Place place = this->place();
    sync_warp();  // what was there has been read
    if (lane_index() % 4 == 0) {
#pragma unroll
      for (int r = 0; r < 2 * kRowTiles; ++r) {
        const QueryRow row = query_row(call, place, place.tile * kRows + row_in_tile(r));
        const Interval sees = interval_of(call, place, s, row, source.length);
        store(info_at(r), SeenRow{row.inside ? row.head : -1, row.query, sees});
      }
    }
    sync_warp();
  }

  /// What is added to the logits of this warp's rows in the block at key `first`: the bias, or -inf where the pair is
  /// masked. Read along the keys, as it lies in memory, and left in shared memory for the lanes that own the logits. What
  /// was there has been read: the ring has a barrier of the block before every block of keys.
  MMK_DEVICE void stage_addends(const Source& source, int first) const {
    const int batch = place().batch;
#pragma unroll 1
    for (int row_number = 0; row_number < 16 * kRowTiles; ++row_number) {
      const SeenRow row = load<SeenRow>(memory + (kRingBytes + 16 * (warp_index() * 16 * kRowTiles + row_number)));
      const RowBias bias = bias_of(call.problem, batch, row);
#pragma unroll 1
      for (int column = lane_index(); column < kKeys; column += 32)
        store(addend_at(row_number, column),
              addend_of(call.problem, dense_mask, batch, row, bias, source.offset, first + column));
    }
    sync_warp();
  }
  /// Rows are 8 numbers longer than they need be, so that the 8 rows of a fragment lie in different banks.
  MMK_DEVICE Shared addend_at(int row, int column) const {
    return memory + (kInfoBytes + 4 * ((warp_index() * 16 * kRowTiles + row) * (kKeys + 8) + column));
  }

  /// Scale, softcap, bias and mask of the general kernel; `kAdd`: with addends, which a block seen whole may lack.
  template <bool kAdd>
  MMK_DEVICE void finish_logits(Logits& logits) const {
    const AttentionProblem& p = call.problem;
    const int group = lane_index() / 4, pair = lane_index() % 4 * 2;
    struct alignas(8) Two {
      float x[2];
    };
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
#pragma unroll
      for (int n = 0; n < Logits::kColumnTiles; ++n) {
        Two addend{};
        if constexpr (kAdd) addend = load<Two>(addend_at(r / 2 * 16 + r % 2 * 8 + group, 8 * n + pair));
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& logit = logits.at[r / 2][n][r % 2 * 2 + e];
          float x = capped(p, logit).logit;
          if constexpr (kAdd) x = addend.x[e] == -INFINITY ? -INFINITY : x + addend.x[e];  // a NaN too
          logit = x;
        }
      }
    }
  }

  /// -inf for the pairs outside the rows' intervals: all that a partial block of the plain kernel pays.
  MMK_DEVICE void mask_logits(Logits& logits, int first) const {
    const int pair = lane_index() % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const Interval sees = info(r).sees;
#pragma unroll
      for (int n = 0; n < Logits::kColumnTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int local = first + 8 * n + pair + e;
          if (local < sees.start || local >= sees.stop) logits.at[r / 2][n][r % 2 * 2 + e] = -INFINITY;
        }
    }
  }

  MMK_DEVICE void drop(Logits& weights, const Source& source, int first) const {
    const Dropout& d = call.problem.dropout;
    const DropoutKey dropout = DropoutKey::of(d, place().batch);
    const int64_t start = source.offset + first + d.offset[3];
    const int pair = lane_index() % 4 * 2;
    const auto dropout_row = [&](int r) {
      const SeenRow row = info(r);
      return DropoutRow{static_cast<uint32_t>(row.head + d.offset[1]), static_cast<uint32_t>(row.query + d.offset[2])};
    };
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const DropoutRow upper = dropout_row(2 * m), lower = dropout_row(2 * m + 1);
      // The generator's code stands here once: what it says is kept as bits until the registers are walked.
      uint64_t bits = 0;
#pragma unroll 1
      for (int n = 0; n < Logits::kColumnTiles; ++n) {
        const Kept kept =
            kept_pairs(dropout, upper, lower, static_cast<uint32_t>(start + 8 * n + pair), start % 4 == 0);
        uint64_t four = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) four |= static_cast<uint64_t>(kept.at[j]) << j;
        bits |= four << (4 * n);
      }
#pragma unroll
      for (int n = 0; n < Logits::kColumnTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float& weight = weights.at[m][n][j];
          const bool kept = (bits >> (4 * n + j) & 1) != 0;
          weight = kept || bits_as<uint32_t>(weight) == 0x80000000u ? weight : 0.0f;
        }
      }
    }
  }

  MMK_DEVICE void rescale(const float (&factor)[2 * kRowTiles]) {
    scale_rows(out, factor);
    if constexpr (kSumByProduct) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum_tile[m][j] *= factor[2 * m + j / 2];
    }
  }

  /// One block of keys in the ring.
  template <bool kFull>
  MMK_DEVICE void step(const Source& source, int stage, int first) {
    const AttentionProblem& p = call.problem;
    Logits logits;
    rows_by_rows(logits, query(), warp_index() * 16 * kRowTiles, key(stage));
    if constexpr (kGeneral) {
      if constexpr (!kFull) stage_addends(source, first);
      finish_logits<!kFull>(logits);
    } else if constexpr (!kFull) {
      mask_logits(logits, first);
    }
    move_shifts<!kGeneral>(logits, state, p.scale, [&](const float (&factor)[2 * kRowTiles]) { rescale(factor); });
    weigh<!kGeneral, !kFull, !kSumByProduct>(logits, state, p.scale);
    if constexpr (kGeneral) {
      if (p.dropout.active) drop(logits, source, first);
    }
    const Weights<T, Logits> weights(logits);
    const bool isolate = !kFull && has_poison(value(stage));
    weights_by_rows<kSumByProduct>(out, weights, value(stage), sum_tile, isolate);
    if (!kFull && isolate) add_poison(out, weights, value(stage));
  }

  /// The blocks of a chunk that starts at key `start` of its segment; false where no row sees any.
  MMK_DEVICE bool chunk(int s, const Source& source, int start) {
    Blocks own{0u, 0xffffffffu};
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const SeenRow row = info(r);
      const Blocks blocks = blocks_of<kKeys>(row.sees, row.exists(), start);
      own.some |= blocks.some;
      own.full &= blocks.full;
    }
    if constexpr (kGeneral) {
      if (dense_mask || call.problem.bias.kind != BiasKind::kNone) own.full = 0u;
    }
    own = {warp_or(own.some), warp_and(own.full)};
    const Blocks all = share_blocks<kWarps>(own, memory + (kRingBytes + 16 * kRows));
    uint32_t left = all.some & block_bits(0, kChunkBlocks);
    if (left == 0) return false;

    out.clear();
    state.clear();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum_tile[m][j] = 0.0f;

    if constexpr (kWarps == 1) sync_warp();  // the tiles of the chunk before have been read
    const auto copy = [&](int to, int block) {
      copy_block(kAnew ? this->source(s) : source, to, start + block * kKeys);
    };
    copy(0, lowest_bit(left));
    commit_copies();
    int stage = 0;
    const auto next = [&] {
      wait_copies<0>();
      sync_block();
      const int block = lowest_bit(left);
      left &= left - 1;
      if (left != 0) copy(stage ^ 1, lowest_bit(left));
      commit_copies();
      return start + block * kKeys;
    };
    while (left != 0) {
      while (left != 0 && (all.full >> lowest_bit(left) & 1) != 0) {
        const int first = next();
        step<true>(source, stage, first);
        stage ^= 1;
      }
      if (left == 0) break;
      const uint32_t bit = left & -left;
      const int first = next();
      if ((own.some & bit) != 0) step<false>(source, stage, first);
      stage ^= 1;
    }
    finish_sums();
    return true;
  }

  /// After a chunk every lane has its rows' whole sums.
  MMK_DEVICE void finish_sums() {
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r)
      state.row_sum[r] = kSumByProduct ? sum_tile[r / 2][r % 2 * 2] : quad_sum(state.row_sum[r]);
  }

  /// Where thread `thread_index()` keeps number `i` of the state of a tile.
  MMK_DEVICE Global<float> state_at(int64_t tile, int i) const {
    return global<float>(static_cast<void*>(call.scratch)) + (tile * kStateNumbers + i * kThreads + thread_index());
  }

  MMK_DEVICE void save_state(int64_t tile) const {
    int i = 0;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < Output::kColumnTiles; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) store(state_at(tile, i++), out.at[m][n][j]);
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      store(state_at(tile, i++), state.shift[r]);
      store(state_at(tile, i++), state.row_sum[r]);
    }
  }

  /// Merges this state with that of `tile` in memory, which is of the chunks before (kSavedFirst) or behind. A side that
  /// saw nothing changes no bit of the other.
  template <bool kSavedFirst>
  MMK_DEVICE void merge_saved(int64_t tile) {
    constexpr int kNumbers = kRowTiles * Output::kColumnTiles * 4;
    const float log2_scale = kGeneral ? kLog2E : call.problem.scale * kLog2E;
    float factor_own[2 * kRowTiles] = {}, factor_saved[2 * kRowTiles] = {};
    const auto merge = [&](int r, float& own, float saved) {
      own = kSavedFirst ? fused(saved, factor_saved[r], own * factor_own[r])
                        : fused(own, factor_own[r], saved * factor_saved[r]);
    };
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const float saved = load_written(state_at(tile, kNumbers + 2 * r)), own = state.shift[r];
      const float top = maximum(saved, own), shift = safe_shift(top);
      factor_saved[r] = exp2_approx((saved - shift) * log2_scale);
      factor_own[r] = exp2_approx((own - shift) * log2_scale);
      state.shift[r] = top;
      merge(r, state.row_sum[r], load_written(state_at(tile, kNumbers + 2 * r + 1)));
    }
    int i = 0;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < Output::kColumnTiles; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) merge(2 * m + j / 2, out.at[m][n][j], load_written(state_at(tile, i++)));
  }

  /// Output and lse of the rows.
  MMK_DEVICE void end(const Place& place) const {
    const AttentionProblem& p = call.problem;
    const float kept = p.dropout.active ? p.dropout.keep_scale : 1.0f;
    const int pair = lane_index() % 4 * 2, dim = static_cast<int>(p.dim_v);
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const QueryRow row = query_row(call, place, place.tile * kRows + row_in_tile(r));
      if (!row.inside) continue;
      const float sum = state.row_sum[r];
      const bool empty = state.shift[r] == -INFINITY && sum == 0.0f;
      const int64_t query_row = place.query_first + row.query;
      if (p.lse != nullptr && pair == 0) {
        const float scale = kGeneral ? 1.0f : p.scale;
        const float lse = empty ? -INFINITY : fused(state.shift[r], scale, log2_approx(sum) * kLn2);
        store(global<float>(static_cast<void*>(p.lse)) +
                  (place.batch * p.lse_stride[0] + row.head * p.lse_stride[1] + query_row * p.lse_stride[2]),
              lse);
      }
      const float by = empty ? 0.0f : kept * reciprocal(sum);
      const Global<T> to =
          global<T>(p.out.data) + (place.batch * p.out.batch + row.head * p.out.head + query_row * p.out.row);
#pragma unroll
      for (int n = 0; n < Output::kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = 8 * n + pair + e;
          const float x = out.at[r / 2][n][r % 2 * 2 + e];
          if (column < dim) store(to + column, narrow<T>(empty ? 0.0f : x * by));
        }
      }
    }
  }

  /// The whole of a block's work: its chunks merged, or, of several splits, the state of one chunk left in memory.
  MMK_DEVICE void run() {
    memory = shared_memory();
    if (!begin()) return;
    const int64_t tile = block_index_x();
    int number = 0;
    bool merged = false;
    out.clear();
    state.clear();
    for (int s = 0; s < call.problem.num_segments; ++s) {
      const Source source = this->source(s);
      look_at(s, source);
      for (int start = 0; start < source.length; start += kChunkKeys, ++number) {
        if (call.splits > 1 && number != place().split) continue;
        if (!chunk(s, source, start)) continue;
        if (call.splits > 1 || call.scratch == nullptr) continue;
        if (merged) merge_saved<true>(tile);
        merged = true;
        save_state(tile);
      }
    }
    commit_copies();
    wait_copies<0>();
    if (call.splits > 1) {
      save_state(tile);
    } else {
      end(place());
    }
  }

  /// Merges what the splits of a tile left, in the order of the chunks.
  MMK_DEVICE void run_merge() {
    const Place place = query_place(call, kRows, 1);
    if (!place.inside) return;
    const int64_t first = static_cast<int64_t>(block_index_x() / call.tiles) * call.splits * call.tiles + place.tile;
    out.clear();
    state.clear();
    for (int split = 0; split < call.splits; ++split)
      merge_saved<false>(first + static_cast<int64_t>(split) * call.tiles);
    end(place);
  }
};

MMK_NAMESPACE_END
