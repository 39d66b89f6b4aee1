// Gradient of the query (Dao et al., "FlashAttention-2", 2023), from what attention_delta.h left of every row.
//
//   s = q k^T    weight = exp(logit(s) - lse)    dP = dO v^T    dS = weight (dropped dP - delta)    dq = scale dS k
//
// A block of threads has a tile of query rows, each warp 16 of them, and walks the blocks of kKeys keys that some row
// sees. q and dO are in shared memory, and a ring of two pairs of key and value tiles, as in the forward; logits,
// gradients of logits and dq stay in registers: dS is the left operand of its product where it lies.
//
// dq is a sum over the keys of a chunk in order, and chunks are added in order, those before resting in device memory. A
// query that is broadcast along the batch is summed over it by its own block, in order.
//
// Blocks that are not seen whole test every pair: a hidden one has -0 for its gradient, whatever dO, v or the bias hold
// there, and keys with a NaN or infinity are kept from the rows that do not see them (product.h, add_poison).
#pragma once

#include "../tile/gradients.h"

MMK_NAMESPACE_BEGIN

/// kGeneral: with softcap, bias, dense mask, dropout, a scale that is not positive, or rows that lack whole chunks (tile.h).
template <class T_, int kDim_, int kWarps_, int kKeys_, bool kGeneral_>
struct AttentionBackwardQuery {
  using T = T_;
  static constexpr int kDim = kDim_, kWarps = kWarps_, kKeys = kKeys_, kThreads = 32 * kWarps, kRows = 16 * kWarps;
  static constexpr bool kGeneral = kGeneral_;
  static constexpr int kChunkBlocks = 1024 / kKeys < 32 ? 1024 / kKeys : 32, kChunkKeys = kChunkBlocks * kKeys;

  using QueryTile = Tile<T, kRows, kDim>;
  using KeyTile = Tile<T, kKeys, kDim>;
  using Pairs = Accumulator<1, kKeys / 8>;
  using Gradient = Accumulator<1, kDim / 8>;

  static constexpr int kRingBytes = 2 * QueryTile::kBytes + 4 * KeyTile::kBytes;
  static constexpr int kStatisticsBytes = kRingBytes + 16 * kRows + (8 * kWarps + 15) / 16 * 16;
  static constexpr int kInfoBytes = kStatisticsBytes + (kGeneral ? 16 * kRows + 16 : 0);
  static constexpr int kAddendStride = kKeys + 8;  // so that the 8 rows of a fragment lie in different banks
  static constexpr int kSharedBytes = kInfoBytes + (kGeneral ? 4 * kRows * kAddendStride : 0);
  static constexpr int kStateNumbers = kThreads * kDim / 2;

  const AttentionBackwardCall& call;
  Place place;
  bool dense_mask;
  Shared memory;
  float shift[2], delta[2];  // of the plain kernel: times -log2(e), and -1
  Gradient gradient;

  MMK_DEVICE explicit AttentionBackwardQuery(const AttentionBackwardCall& c) : call(c) {}

  MMK_DEVICE static int row_in_tile(int r) { return warp_index() * 16 + r * 8 + lane_index() / 4; }

  MMK_DEVICE QueryTile query() const { return {memory}; }
  MMK_DEVICE QueryTile grad_out() const { return {memory + QueryTile::kBytes}; }
  MMK_DEVICE KeyTile key(int stage) const { return {memory + (2 * QueryTile::kBytes + stage * 2 * KeyTile::kBytes)}; }
  MMK_DEVICE KeyTile value(int stage) const { return {key(stage).base + KeyTile::kBytes}; }
  MMK_DEVICE Shared info_at(int row) const { return memory + (kRingBytes + 16 * row); }
  MMK_DEVICE SeenRow info(int r) const { return load<SeenRow>(info_at(row_in_tile(r))); }
  /// The lane's row r. Read anew where it is needed: registers are for the sums.
  MMK_DEVICE QueryRow known_row(int r) const {
    const SeenRow row = info(r);
    return {row.head, row.query, row.exists()};
  }
  MMK_DEVICE Shared statistics_at(int row) const { return memory + (kStatisticsBytes + 16 * row); }
  MMK_DEVICE Shared head_at() const { return statistics_at(kRows); }
  MMK_DEVICE Shared words() const { return memory + (kRingBytes + 16 * kRows); }
  MMK_DEVICE Shared addend_at(int row, int column) const {
    return memory + (kInfoBytes + 4 * (row * kAddendStride + column));
  }

  /// The tiles of this block's rows in the present batch entry.
  MMK_DEVICE void copy_queries(int head) const {
    const AttentionProblem& p = call.problem;
    const int first = place.tile * kRows, count = place.len_q - first;
    const auto copy = [&](QueryTile tile, const TensorView& view, int64_t dim) {
      const Global<const T> data = rows_of<T>(view, place.batch, head, place.query_first);
      copy_rows<kThreads, !kGeneral>(tile, Rows<T>::of(data, view.row, dim), first, count);
    };
    copy(query(), p.query, p.dim_qk);
    copy(grad_out(), p.grad_out, p.dim_v);
  }

  /// The same, and what else the rows need.
  MMK_DEVICE void begin() {
    if constexpr (kGeneral) {
      if (thread_index() == 0) store(head_at(), place.head);
      sync_block();
    }
    copy_queries(kGeneral ? load<int>(head_at()) : place.head);
    sync_warp();  // what was there has been read
    if (lane_index() < 16) {
      const int own = warp_index() * 16 + lane_index();
      const QueryRow row = query_row(call, place, place.tile * kRows + own);
      store(info_at(own), SeenRow{row.inside ? row.head : -1, row.query, {0, 0}});
      if constexpr (kGeneral) store(statistics_at(own), statistics_of(call, place, row));
    }
    sync_warp();
    if constexpr (kGeneral) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowStatistics statistics = statistics_of(call, place, known_row(r));
      shift[r] = statistics.shift * -kLog2E;
      delta[r] = -statistics.delta;
    }
  }

  using Source = KeySource<T>;

  /// For general kernels, which have no registers to keep a source in. The head comes from shared memory, here and in begin,
  /// lest the compiler keep what follows from it.
  MMK_DEVICE Source source_anew(int s) const {
    Place now = place;
    now.head = load<int>(head_at());
    return key_source<T>(call, now, s);
  }

  MMK_DEVICE void copy_block(const Source& source, int stage, int first) const {
    copy_rows<kThreads, !kGeneral>(key(stage), source.keys, first, source.length - first);
    copy_rows<kThreads, !kGeneral>(value(stage), source.values, first, source.length - first);
  }

  /// What the rows of this warp see of segment s.
  MMK_DEVICE void look_at(int s, const Source& source) const {
    sync_warp();  // what was there has been read
    if (lane_index() < 16) {
      const int own = warp_index() * 16 + lane_index();
      const QueryRow row = query_row(call, place, place.tile * kRows + own);
      store(info_at(own),
            SeenRow{row.inside ? row.head : -1, row.query, interval_of(call, place, s, row, source.length)});
    }
    sync_warp();
  }

  /// Bias and mask of this warp's pairs in the block at key `first`, read along the keys, as they lie in memory. What was there
  /// has been read: every pass has a barrier of the block before each block of keys.
  MMK_DEVICE void stage_addends(const Source& source, int first) const {
#pragma unroll 1
    for (int row_number = warp_index() * 16; row_number < warp_index() * 16 + 16; ++row_number) {
      const SeenRow row = load<SeenRow>(info_at(row_number));
      const RowBias bias = bias_of(call.problem, place.batch, row);
#pragma unroll 1
      for (int column = lane_index(); column < kKeys; column += 32)
        store(addend_at(row_number, column),
              addend_of(call.problem, dense_mask, place.batch, row, bias, source.offset, first + column));
    }
    sync_warp();
  }

  /// Whether some row of the block sees some of the keys from `first` on; the same answer in every thread.
  MMK_DEVICE bool block_sees(int first) const {
    Blocks own{0u, 0u};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const SeenRow row = info(r);
      own.some |= blocks_of<kKeys>(row.sees, row.exists(), first).some & 1u;
    }
    return share_blocks<kWarps>({warp_or(own.some), 0u}, words()).some != 0;
  }

  /// Weights and gradients of the lane's logits, in place; `kSlope`: see pair_step.
  template <bool kFull, bool kSlope>
  MMK_DEVICE void finish(Pairs& s, Pairs& dp, const Source& source, int first) const {
    const AttentionProblem& p = call.problem;
    const int pair = lane_index() % 4 * 2;
    uint32_t kept = 0xffffffffu;
    if (p.dropout.active) {
      const Dropout& d = p.dropout;
      const DropoutKey dropout = DropoutKey::of(d, place.batch);
      const auto dropout_row = [&](int r) {
        const SeenRow row = info(r);
        return DropoutRow{static_cast<uint32_t>(row.head + d.offset[1]),
                          static_cast<uint32_t>(row.query + d.offset[2])};
      };
      kept = kept_of_rows<Pairs>(dropout, dropout_row(0), dropout_row(1), source.offset + first + d.offset[3]);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowStatistics row = load<RowStatistics>(statistics_at(row_in_tile(r)));
#pragma unroll
      for (int n = 0; n < Pairs::kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = 2 * r + e;
          const float addend = kFull ? 0.0f : load<float>(addend_at(row_in_tile(r), 8 * n + pair + e));
          pair_step<!kFull, kSlope>(p, s.at[0][n][j], dp.at[0][n][j], row, addend, addend == -INFINITY,
                                    (kept >> (4 * n + j) & 1) != 0);
        }
      }
    }
  }

  /// The same of the plain kernel.
  template <bool kFull>
  MMK_DEVICE void finish_plain(Pairs& s, Pairs& dp, int first) const {
    const int pair = lane_index() % 4 * 2;
    const float log2_scale = call.problem.scale * kLog2E;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      Interval sees{};
      if constexpr (!kFull) sees = info(r).sees;
#pragma unroll
      for (int n = 0; n < Pairs::kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = first + 8 * n + pair + e, j = 2 * r + e;
          plain_pair_step<!kFull>(log2_scale, s.at[0][n][j], dp.at[0][n][j], shift[r],
                                  key < sees.start || key >= sees.stop);
        }
      }
    }
  }

  template <bool kFull>
  MMK_DEVICE void step(const Source& source, int stage, int first) {
    Pairs s, dp;
    if constexpr (kGeneral) {
      dp.clear();
    } else {
#pragma unroll
      for (int n = 0; n < Pairs::kColumnTiles; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) dp.at[0][n][j] = delta[j / 2];
    }
    rows_by_rows<true>(dp, grad_out(), warp_index() * 16, value(stage));
    rows_by_rows(s, query(), warp_index() * 16, key(stage));
    if constexpr (kGeneral) {
      if constexpr (!kFull) stage_addends(source, first);
      finish<kFull, true>(s, dp, source, first);
    } else {
      finish_plain<kFull>(s, dp, first);
    }
    accumulate<!kFull>(gradient, dp, key(stage));
  }

  /// The blocks of a chunk that starts at key `start` of its segment; false where no row sees any.
  MMK_DEVICE bool chunk(int s, const Source& source, int start) {
    Blocks own{0u, 0xffffffffu};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const SeenRow row = info(r);
      const Blocks blocks = blocks_of<kKeys>(row.sees, row.exists(), start);
      own.some |= blocks.some;
      own.full &= blocks.full;
    }
    if (kGeneral && (dense_mask || call.problem.bias.kind != BiasKind::kNone)) own.full = 0u;
    own = {warp_or(own.some), warp_and(own.full)};
    const Blocks all = share_blocks<kWarps>(own, words());
    uint32_t left = all.some & block_bits(0, kChunkBlocks);
    if (left == 0) return false;

    gradient.clear();
    if constexpr (kWarps == 1) sync_warp();  // the tiles of the chunk before have been read
    const auto copy = [&](int to, int block) {
      copy_block(kGeneral ? source_anew(s) : source, to, start + block * kKeys);
    };
    copy(0, lowest_bit(left));
    commit_copies();
    int stage = 0;
    const auto next = [&] {
      wait_copies<0>();
      sync_block();
      const int first = start + lowest_bit(left) * kKeys;
      left &= left - 1;
      if (left != 0) copy(stage ^ 1, lowest_bit(left));
      commit_copies();
      return first;
    };
    while (left != 0) {
      while ((all.full & left & -left) != 0) {
        const int first = next();
        step<true>(source, stage, first);
        stage ^= 1;
      }
      if (left == 0) break;
      const bool seen = (own.some & left & -left) != 0;
      const int first = next();
      if (seen) step<false>(source, stage, first);
      stage ^= 1;
    }
    return true;
  }

  MMK_DEVICE void end() const {
    const AttentionProblem& p = call.problem;
    const TensorView& view = p.grad_query;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const QueryRow row = known_row(r);
      if (!row.inside) continue;
      const int64_t batch = p.query_batches == 1 ? 0 : place.batch;
      const int64_t at = batch * view.batch + row.head * view.head + (place.query_first + row.query) * view.row;
      write_row(gradient, r, global<T>(view.data) + at, static_cast<int>(p.dim_qk), p.scale);
    }
  }

  MMK_DEVICE void run() {
    memory = shared_memory();
    place = query_place(call, kRows, 1);
    if (!place.inside) return;
    const AttentionProblem& p = call.problem;
    const Global<float> rest =
        global<float>(static_cast<void*>(call.scratch)) + static_cast<int64_t>(block_index_x()) * kStateNumbers;
    if constexpr (kGeneral) dense_mask = has_dense_mask(p.mask);
    const int last = p.cu_q == nullptr && p.query_batches == 1 ? static_cast<int>(p.batch) - 1 : place.batch;
    bool some = false;
    gradient.clear();
    for (;; ++place.batch) {
      begin();
      for (int s = 0; s < p.num_segments; ++s) {
        const Source source = key_source<T>(call, place, s);
        look_at(s, source);
        for (int start = 0; start < source.length; start += kChunkKeys) {
          if (!chunk(s, source, start) || call.scratch == nullptr) continue;
          add_to_saved<kThreads>(gradient, rest, some);
          some = true;
        }
      }
      commit_copies();
      wait_copies<0>();
      if (place.batch >= last) break;
      sync_block();  // this entry's tiles have been read
    }
    end();
  }
};

MMK_NAMESPACE_END
